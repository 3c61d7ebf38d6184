"""Jobs: tasks that a user has queued.

A job's id says itself whose it is: it ends with a signature over the rest and the user's id. So an
unknown id, or another user's, is told from a waiting one without a record to write, to expire and
to read back.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Any

from celery import Task, states
from celery.utils.serialization import UnpickleableExceptionWrapper
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.core.broker import ResultBackend
from app.core.celery import celery_app
from app.core.config.settings import settings
from app.core.publisher import Publisher

# What Celery, Kombu and the Redis client raise when Redis is away.
QUEUE_ERRORS = (OperationalError, RedisError, RuntimeError, OSError)
PROGRESS = "PROGRESS"
# Nobody waits for a result in a process that answers requests.
ResultBackend.subscribe_when_queued = False
publisher = Publisher(celery_app)


class QueueUnavailableError(Exception):
    """Redis does not answer; nothing is known to be queued."""


class UnknownJobError(Exception):
    """There is no such job, or it is not this user's."""


@dataclass(frozen=True)
class Job:
    """A job's state. ``result`` holds the progress while it runs, the error when it failed."""

    task_id: str
    status: str
    result: Any


def new_job_id(user_id: int) -> str:
    """Return a task id that belongs to this user."""
    body = f"{int(time.time()):08x}-{secrets.token_hex(8)}"
    return f"{body}-{_signature(body, user_id)}"


def check_owner(task_id: str, user_id: int) -> None:
    """Raise UnknownJobError unless the id was made for this user."""
    body, _, signature = task_id.rpartition("-")
    if not hmac.compare_digest(signature.encode(), _signature(body, user_id).encode()):
        raise UnknownJobError(task_id)


async def enqueue(task: Task[..., Any], owner_id: int, **kwargs: Any) -> str:
    """Queue a task for a user and return the task's id.

    Raises:
        QueueUnavailableError: the broker did not take it.
    """
    task_id = new_job_id(owner_id)
    try:
        await publisher.publish(task, task_id, kwargs)
    except QUEUE_ERRORS as error:
        raise QueueUnavailableError(str(error)) from error
    return task_id


def get_job(task_id: str, user_id: int) -> Job:
    """Return the state of a user's job. Blocks, as ``revoke_job`` does: not for an event loop.

    Raises:
        UnknownJobError: see there; also when its result has expired.
        QueueUnavailableError: the result backend does not answer.
    """
    check_owner(task_id, user_id)
    try:
        meta = celery_app.backend.get_task_meta(task_id)
    except QUEUE_ERRORS as error:
        raise QueueUnavailableError(str(error)) from error
    status, result = meta["status"], meta["result"]
    if status == states.PENDING:
        queued_at = int(task_id.split("-")[0], 16)
        if time.time() - queued_at > celery_app.conf.result_expires:
            raise UnknownJobError(task_id)
    if isinstance(result, UnpickleableExceptionWrapper):  # its arguments were no JSON
        result = str(result)
    elif isinstance(result, BaseException):
        result = f"{type(result).__name__}: {result}"
    elif status not in (states.SUCCESS, PROGRESS):
        result = None  # the worker's name and process id are nobody's business
    return Job(task_id, status, result)


def revoke_job(task_id: str, user_id: int) -> Job:
    """Stop a user's job, waiting or running, and return its state. A finished one stays as it is.

    Raises:
        UnknownJobError, QueueUnavailableError: as ``get_job``.
    """
    job = get_job(task_id, user_id)
    if job.status in states.READY_STATES:
        return job
    try:
        backend: Any = celery_app.backend
        backend.remember_revoked(task_id)
        celery_app.control.revoke(task_id, terminate=True)
        backend.mark_as_revoked(task_id, "revoked")
    except QUEUE_ERRORS as error:
        raise QueueUnavailableError(str(error)) from error
    return get_job(task_id, user_id)


def _signature(body: str, user_id: int) -> str:
    key = settings.app.SECRET_KEY.encode()
    return hmac.new(key, f"job:{body}:{user_id}".encode(), hashlib.sha256).hexdigest()[:16]
