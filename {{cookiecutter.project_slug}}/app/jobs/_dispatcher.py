"""Publishes due jobs, and recovers lost messages and attempts. Runs in beat every few seconds."""

from datetime import datetime, timedelta
from typing import Any

import structlog
from celery import Celery
from sqlalchemy import ColumnElement, false, func, select
from sqlalchemy.orm import Session

from app.core.celery import find_task
from app.core.database import DATABASE_NOW, session_scope
from app.jobs._publisher import message_of
from app.jobs._service import database_time
from app.jobs._worker import fail, put_back_lost
from app.models.job import RUNNING, WAITING, Job

log = structlog.get_logger(__name__)

BATCH = 200
# The time after publishing within which a message is in its queue or its attempt is claimed.
IN_FLIGHT = timedelta(seconds=10)
# The time after its hard time limit within which an attempt has recorded its outcome.
LIMIT_GRACE = timedelta(seconds=30)


def dispatch(app: Celery) -> int:
    """Publish jobs that are due or whose message was lost, and put back attempts that were lost.

    Return the number of published messages. Safe to run in several processes at the same time.

    Raises:
        kombu.exceptions.OperationalError: Redis does not answer.
        sqlalchemy.exc.SQLAlchemyError: The database does not answer.
    """
    _recover_lost_attempts(app)
    is_lost = _lost(app)
    published = 0
    while True:
        with session_scope() as session:
            jobs = _unpublished(session, is_lost)
            for job in jobs:
                if find_task(job.task) is None:
                    fail(job, f"NotRegistered: there is no task {job.task}")
                    continue
                # Before the commit: if Redis fails now, the job stays unpublished. A worker that
                # is quicker than the commit waits for the lock on the row.
                message_of(job).apply_async()
                job.published_at = DATABASE_NOW
        published += len(jobs)
        if len(jobs) < BATCH:
            return published


def _lost(app: Celery) -> ColumnElement[bool]:
    """Return the condition for waiting jobs whose message was lost.

    A message was lost if it was published some time ago and its queue is empty, or messages that
    were published later have left the queue.
    """
    messages = count_messages(app)
    with session_scope() as session:
        now = database_time(session)
        if not any(messages.values()):  # Whatever the task, even one that no longer exists.
            return Job.published_at < now - IN_FLIGHT
        condition: ColumnElement[bool] = false()
        for queue, tasks in _tasks_by_queue(app).items():
            newest = _newest_begun(session, tasks) if messages[queue] else now
            if newest:
                condition |= Job.task.in_(tasks) & (Job.published_at < newest - IN_FLIGHT)
        return condition


def _unpublished(session: Session, is_lost: ColumnElement[bool]) -> list[Job]:
    is_due = Job.published_at.is_(None) & (Job.due_at <= database_time(session))
    query = select(Job).where(Job.status.in_(WAITING), is_due | is_lost)
    return list(session.scalars(query.limit(BATCH).with_for_update(skip_locked=True)))


def _newest_begun(session: Session, tasks: list[str]) -> datetime | None:
    """Return the time before which all published messages have left their queue.

    Queues are first in, first out, and a running job was published when it was due, or later. The
    time of its last message does not count: it may be the one before that has begun. Nor do
    Celery's retries, which workers hold until they are due.
    """
    begun = Job.status.in_(RUNNING) & (Job.attempts == Job.series + 1) & Job.task.in_(tasks)
    return session.scalar(select(func.max(Job.due_at)).where(begun))


def count_messages(app: Celery) -> dict[str, int]:
    """Return the number of messages that wait in each queue.

    Raises:
        kombu.exceptions.OperationalError: Redis does not answer.
    """
    with app.connection_for_write() as connection:
        # Not passive: Kombu would look for the queue without the key prefix, and never find it.
        channel: Any = connection.default_channel
        queues = sorted(_tasks_by_queue(app))
        return {queue: channel.queue_declare(queue).message_count for queue in queues}


def _tasks_by_queue(app: Celery) -> dict[str, list[str]]:
    tasks: dict[str, Any] = dict(app.tasks)
    queues: dict[str, list[str]] = {}
    for name, task in tasks.items():
        options = {"queue": getattr(task, "queue", None)}
        queues.setdefault(app.amqp.router.route(options, name)["queue"].name, []).append(name)
    return queues


def _recover_lost_attempts(app: Celery) -> None:
    """Put back attempts that must have ended: their hard time limit is over."""
    with session_scope() as session:
        now = database_time(session)
        running = select(Job).where(Job.status.in_(RUNNING))
        for job in session.scalars(running.with_for_update(skip_locked=True)):
            task = find_task(job.task)
            limit = timedelta(seconds=(task and task.time_limit) or app.conf.task_time_limit)
            if job.started_at and now > job.started_at + limit + LIMIT_GRACE:
                put_back_lost(session, job, f"no outcome {limit} after its start")
