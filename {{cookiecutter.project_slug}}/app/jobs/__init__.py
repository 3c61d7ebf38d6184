"""Durable background jobs: rows in the application's database, run by Celery.

A job commits together with the caller's own data, and a Celery message says "run it". The row is
the truth; a message may be lost, repeated or late. See ``docs/tasks.md``.
"""

from app.jobs._publisher import close_publisher
from app.jobs._service import (
    JobNotFoundError,
    JobStateError,
    cancel_job,
    count_waiting_jobs,
    delete_finished_jobs,
    enqueue,
    get_job,
    list_jobs,
    retry_job,
)
from app.models.job import Job, JobStatus

__all__ = [
    "Job",
    "JobNotFoundError",
    "JobStateError",
    "JobStatus",
    "cancel_job",
    "close_publisher",
    "count_waiting_jobs",
    "delete_finished_jobs",
    "enqueue",
    "get_job",
    "list_jobs",
    "retry_job",
]
