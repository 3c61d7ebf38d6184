"""Queue, read, cancel and retry jobs."""

import inspect
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from asgi_correlation_id import correlation_id
from celery import Task
from opentelemetry import propagate
from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, delete, event, func, select, tuple_, update
from sqlalchemy.orm import Session, SessionTransaction

from app.core.config.settings import settings
from app.core.database import DATABASE_NOW
from app.jobs._publisher import message_of, publish_soon, stamp_of, submit, terminate
from app.models.job import FINISHED, RUNNING, WAITING, Job, JobStatus

# The key in ``Session.info`` of the messages to send after the commit.
AFTER_COMMIT = "app.jobs.after_commit"
# Serializes as FastAPI does.
JSON: TypeAdapter[Any] = TypeAdapter(Any)


class JobNotFoundError(LookupError):
    """There is no such job, or it belongs to another user."""


class JobStateError(Exception):
    """The state of the job does not allow this."""


def enqueue(
    session: Session,
    task: Task[..., Any],
    *,
    owner_id: int | None = None,
    countdown: float | None = None,
    **kwargs: Any,
) -> Job:
    """Add a job to the session's transaction; it runs once that has been committed.

    Args:
        session: The job commits or rolls back together with everything else in it.
        task: A Celery task of this project.
        owner_id: The user who may see, cancel and retry the job.
        countdown: Seconds before the job becomes due.
        **kwargs: The arguments of the task, as JSON can hold them.

    Raises:
        TypeError: The task does not take these arguments, or JSON cannot hold them.
        ValueError: JSON cannot hold a value, such as NaN; or the countdown is not below 10⁹ seconds.
    """
    return add_job(session, task, kwargs, owner_id=owner_id, countdown=countdown)


def add_job(
    session: Session,
    task: Task[..., Any],
    kwargs: dict[str, Any],
    *,
    owner_id: int | None = None,
    countdown: float | None = None,
    schedule: str | None = None,
) -> Job:
    """Add a job to the session's transaction. See ``enqueue``."""
    inspect.signature(task.run).bind(**kwargs)
    check_json(kwargs)
    if countdown is not None and not countdown < 1e9:
        raise ValueError(f"countdown must be a number of seconds below 10⁹, not {countdown}")
    headers: dict[str, Any] = {"request_id": correlation_id.get()}
    propagate.inject(headers)  # The trace that the job belongs to.
    job = Job(
        id=str(uuid4()),
        task=task.name,
        kwargs=kwargs,
        status=JobStatus.PENDING,
        owner_id=owner_id,
        schedule=schedule,
        headers=headers,
        attempts=0,
        series=0,
        lost=0,
    )
    if countdown:
        job.due_at = database_time(session) + timedelta(seconds=countdown)
    else:
        job.published_at = DATABASE_NOW
        _after_commit(session, partial(publish_soon, message_of(job)))
    session.add(job)
    return job


def get_job(session: Session, job_id: str, *, owner_id: int | None = None) -> Job:
    """Return a job; with ``owner_id`` only one of this user.

    Raises:
        JobNotFoundError: There is no such job.
    """
    job = session.get(Job, job_id) if _may_be_id(job_id) else None
    if job is None or (owner_id is not None and job.owner_id != owner_id):
        raise JobNotFoundError(job_id)
    return job


def list_jobs(
    session: Session,
    *,
    owner_id: int | None = None,
    status: JobStatus | None = None,
    task: str | None = None,
    since: datetime | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[Job]:
    """Return jobs, newest first.

    Args:
        session: The session to read with.
        owner_id: Only jobs of this user.
        status: Only jobs in this state.
        task: Only jobs of the task with this full name.
        since: Only jobs created at or after this time, in UTC without a time zone.
        before: Only jobs older than the one with this id.
        limit: The largest number of jobs to return.

    Raises:
        JobNotFoundError: There is no job with the id ``before``.
    """
    conditions: list[ColumnElement[bool]] = []
    if owner_id is not None:
        conditions.append(Job.owner_id == owner_id)
    if status is not None:
        conditions.append(Job.status == status)
    if task is not None:
        conditions.append(Job.task == task)
    if since is not None:
        conditions.append(Job.created_at >= since)
    if before is not None:
        last = get_job(session, before, owner_id=owner_id)
        conditions.append(tuple_(Job.created_at, Job.id) < tuple_(last.created_at, last.id))
    query = select(Job).where(*conditions)
    return list(session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)))


def count_waiting_jobs(session: Session, owner_id: int, limit: int) -> int:
    """Return how many jobs of a user wait to run, counting no further than ``limit``."""
    waiting = select(Job.id).where(Job.owner_id == owner_id, Job.status.in_(WAITING)).limit(limit)
    return session.scalar(select(func.count()).select_from(waiting.subquery())) or 0


def cancel_job(session: Session, job_id: str, *, owner_id: int | None = None) -> Job:
    """Cancel a job, waiting or running. A finished job stays as it is.

    A running task is terminated after the commit, wherever it is.

    Raises:
        JobNotFoundError: There is no such job.
    """
    job = _lock(session, job_id, owner_id)
    if job.status in RUNNING:
        _after_commit(session, partial(terminate, stamp_of(job)))
    if job.status not in FINISHED:
        job.status = JobStatus.REVOKED
        job.result = None
        job.finished_at = DATABASE_NOW
        session.flush()
    return job


def retry_job(session: Session, job_id: str, *, owner_id: int | None = None) -> Job:
    """Queue a failed or cancelled job again.

    Raises:
        JobNotFoundError: There is no such job.
        JobStateError: It has neither failed nor been cancelled.
    """
    job = _lock(session, job_id, owner_id)
    if job.status not in (JobStatus.FAILURE, JobStatus.REVOKED):
        raise JobStateError(
            f"only failed and cancelled jobs can be retried, this one is {job.status}"
        )
    job.lost = 0
    requeue(session, job)
    return job


def requeue(session: Session, job: Job) -> None:
    """Make a job due again, and publish it after the commit."""
    job.status = JobStatus.PENDING
    job.series = job.attempts
    job.result = None
    job.worker = None
    job.finished_at = None
    job.due_at = DATABASE_NOW
    job.published_at = DATABASE_NOW
    _after_commit(session, partial(publish_soon, message_of(job)))
    session.flush()


def delete_finished_jobs(session: Session) -> int:
    """Delete the jobs that finished more than ``JOB_RETENTION_DAYS`` ago; return their number."""
    oldest = database_time(session) - timedelta(days=settings.celery.JOB_RETENTION_DAYS)
    statement = delete(Job).where(Job.finished_at < oldest)
    return session.connection().execute(statement).rowcount


def check_json(value: Any) -> None:
    """Check that the API can send a value as JSON.

    Raises:
        TypeError: JSON has no such type.
        ValueError: A number is NaN or infinite, a string is not Unicode, or it is nested too deep.
    """
    try:
        json.dumps(value, allow_nan=False)
        JSON.dump_json([[value]])  # As deep as in a list of jobs.
    except RecursionError as error:
        raise ValueError(str(error)) from None


def database_time(session: Session) -> datetime:
    """Return the time of the database server, in UTC without a time zone."""
    return session.execute(select(DATABASE_NOW)).scalar_one()


def _may_be_id(job_id: str) -> bool:
    # Not every database can compare other characters, and no id has them.
    return job_id.isascii() and job_id.isprintable()


def _lock(session: Session, job_id: str, owner_id: int | None) -> Job:
    # Writing locks the row on every database, so the status that is read next cannot change.
    if _may_be_id(job_id):
        session.execute(update(Job).where(Job.id == job_id).values(attempts=Job.attempts))
    job = get_job(session, job_id, owner_id=owner_id)
    session.refresh(job)
    return job


def _after_commit(session: Session, send: Callable[[], None]) -> None:
    session.info.setdefault(AFTER_COMMIT, []).append(send)


# https://docs.sqlalchemy.org/en/21/orm/events.html#transaction-events


@event.listens_for(Session, "after_commit")
def _send(session: Session) -> None:
    if not session.in_nested_transaction():  # Releasing a savepoint commits nothing.
        for send in session.info.pop(AFTER_COMMIT, ()):
            submit(send)


@event.listens_for(Session, "after_transaction_end")
def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:  # Rolled back, unless it was sent.
        session.info.pop(AFTER_COMMIT, None)
