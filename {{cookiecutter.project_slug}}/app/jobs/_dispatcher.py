"""Publishes what is due and what was lost on the way. Runs in beat, every few seconds."""

from datetime import datetime, timedelta
from typing import Any

import structlog
from celery import Celery
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.celery import find_task
from app.core.database import DATABASE_NOW, session_scope
from app.jobs._publisher import Message
from app.jobs._service import database_time
from app.jobs._worker import fail, put_back_lost
from app.models.job import RUNNING, WAITING, Job

log = structlog.get_logger(__name__)

BATCH = 200
# A message is expected to be in its queue, or claimed, so long after it was published.
IN_FLIGHT = timedelta(seconds=10)
# The outcome of an attempt is expected so long after its hard time limit.
LIMIT_GRACE = timedelta(seconds=30)


def dispatch(app: Celery) -> int:
    """Publish jobs that are due or whose message was lost, and put back attempts that were lost.

    Return the number of published messages. Safe to run in several processes at the same time.

    Raises:
        kombu.exceptions.OperationalError: Redis does not answer.
        sqlalchemy.exc.SQLAlchemyError: The database does not answer.
    """
    _recover_lost_attempts(app)
    with session_scope() as session:
        lost_before = _lost_before(session, app)
    published = 0
    while True:
        with session_scope() as session:
            jobs = _unpublished(session, lost_before)
            for job in jobs:
                if find_task(job.task) is None:
                    fail(job, f"NotRegistered: there is no task {job.task}")
                    continue
                # Before the commit: if Redis fails now, the job stays unpublished. A worker that
                # is quicker than the commit waits for the lock on the row.
                Message.of(job).publish()
                job.published_at = DATABASE_NOW
        published += len(jobs)
        if len(jobs) < BATCH:
            return published


def _lost_before(session: Session, app: Celery) -> datetime | None:
    """Return a time: what was published before it and has not begun is lost."""
    # Without a message in any queue, what was published a while ago is lost. Otherwise it is lost
    # if a job that was published later is running already: queues are first in, first out.
    newest: datetime | None
    if any(count_messages(app).values()):
        newest = session.scalar(select(func.max(Job.published_at)).where(Job.status.in_(RUNNING)))
    else:
        newest = database_time(session)
    return newest - IN_FLIGHT if newest else None


def _unpublished(session: Session, lost_before: datetime | None) -> list[Job]:
    condition = Job.published_at.is_(None) & (Job.due_at <= database_time(session))
    if lost_before:
        condition |= Job.published_at < lost_before
    query = select(Job).where(Job.status.in_(WAITING), condition)
    return list(session.scalars(query.limit(BATCH).with_for_update(skip_locked=True)))


def count_messages(app: Celery) -> dict[str, int]:
    """Return the number of messages that wait in each queue.

    Raises:
        kombu.exceptions.OperationalError: Redis does not answer.
    """
    tasks: dict[str, Any] = dict(app.tasks)
    options = [({"queue": getattr(task, "queue", None)}, name) for name, task in tasks.items()]
    queues = {app.amqp.router.route(*option)["queue"].name for option in options}
    with app.connection_for_write() as connection:
        return {queue: _count_messages(connection, queue) for queue in sorted(queues)}


def _count_messages(connection: Any, queue: str) -> int:
    try:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
    except connection.channel_errors:  # In Redis, a queue without messages does not exist.
        return 0


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
