"""What the tests of jobs share: queue a job, read its row, wait until it has finished."""

from typing import Any

from celery import Task

from app.core.database import session_scope
from app.jobs import Job, JobStatus, enqueue, get_job
from app.tasks.example_task import send_notification
from tests.servers import wait_until

FINISHED = (JobStatus.SUCCESS, JobStatus.FAILURE, JobStatus.REVOKED)


def queue(task: Task[..., Any], **kwargs: Any) -> str:
    """Queue a job in a transaction of its own and return its id."""
    with session_scope() as session:
        return enqueue(session, task, **kwargs).id


def queue_for_later(owner_id: int | None = None) -> str:
    """Queue a job that no worker takes during the test, and return its id."""
    return queue(send_notification, owner_id=owner_id, countdown=3600, user_id=1, message="hello")


def read(job_id: str) -> Job:
    """Return the row of a job."""
    with session_scope() as session:
        return get_job(session, job_id)


def change(job_id: str, **values: Any) -> None:
    """Change the row of a job."""
    with session_scope() as session:
        job = get_job(session, job_id)
        for name, value in values.items():
            setattr(job, name, value)


def finished(job_id: str) -> Job:
    """Wait until a job has finished, and return its row."""
    wait_until(lambda: read(job_id).status in FINISHED)
    return read(job_id)
