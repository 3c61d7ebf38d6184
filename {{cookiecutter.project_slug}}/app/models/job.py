"""Jobs and the schedule."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import DATABASE_NOW, Base, Timestamp


class JobStatus(StrEnum):
    """The state of a job, with Celery's names.

    https://docs.celeryq.dev/en/stable/reference/celery.states.html
    """

    PENDING = "PENDING"
    STARTED = "STARTED"
    PROGRESS = "PROGRESS"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    REVOKED = "REVOKED"
    IGNORED = "IGNORED"


WAITING = (JobStatus.PENDING, JobStatus.RETRY)
RUNNING = (JobStatus.STARTED, JobStatus.PROGRESS)
FINISHED = (JobStatus.SUCCESS, JobStatus.FAILURE, JobStatus.REVOKED, JobStatus.IGNORED)


class Job(Base):
    """A unit of background work. The row is the truth; its Celery message only says "run it"."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status", "status", "published_at", "due_at"),
        Index("ix_jobs_owner_id", "owner_id", "created_at", "id"),
        Index("ix_jobs_finished_at", "finished_at"),
    )

    # Also the id of the Celery task.
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    task: Mapped[str] = mapped_column(String(255))
    kwargs: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(String(16), default=JobStatus.PENDING)
    # The return value; the error as text; or, while the job runs, its progress.
    result: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    owner_id: Mapped[int | None]
    # The name of the entry of the schedule that queued this job.
    schedule: Mapped[str | None] = mapped_column(String(255))
    # Sent with the message: the request id and the trace context.
    headers: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    # Each attempt has a number, so that a late or repeated message cannot start another one.
    attempts: Mapped[int] = mapped_column(default=0)
    # The number of attempts when the job was queued or put back. Celery counts retries from here.
    series: Mapped[int] = mapped_column(default=0)
    # Attempts that ended because the process or the worker was lost.
    lost: Mapped[int] = mapped_column(default=0)
    # The worker and the process id of the last attempt.
    worker: Mapped[str | None] = mapped_column(String(255))
    pid: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(Timestamp, default=DATABASE_NOW)
    due_at: Mapped[datetime] = mapped_column(Timestamp, default=DATABASE_NOW)
    published_at: Mapped[datetime | None] = mapped_column(Timestamp)
    started_at: Mapped[datetime | None] = mapped_column(Timestamp)
    finished_at: Mapped[datetime | None] = mapped_column(Timestamp)


# The name of the row that beat updates after each pass over the schedule.
BEAT = "beat"


class ScheduleState(Base):
    """The last run of a schedule entry. It outlives the jobs, which are deleted after a while."""

    __tablename__ = "schedule_states"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(Timestamp, default=DATABASE_NOW)
    last_run_at: Mapped[datetime] = mapped_column(Timestamp)
    last_success_at: Mapped[datetime | None] = mapped_column(Timestamp)
