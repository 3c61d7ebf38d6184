"""Sends the Celery messages of jobs, outside the request that queued them."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import BoundedSemaphore
from typing import Any

import structlog
from celery.canvas import Signature
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.core.celery import celery_app, find_task
from app.models.job import Job

log = structlog.get_logger(__name__)

THREADS = 8
# Messages that may wait for a thread. The dispatcher publishes those beyond this number.
MAX_BACKLOG = 2_000
# Seconds without publishing after a failure, since failing each time would slow requests down.
PAUSE = 1.0
# The message header with the series of attempts that it belongs to.
SERIES = "job_series"
# The message header with the name of the entry of the schedule that queued the job.
SCHEDULE = "job_schedule"
# The stamp by which a running attempt is terminated. Revoking the task's id instead would make
# workers refuse a later retry of the same job.
# https://docs.celeryq.dev/en/stable/userguide/workers.html#revoke-by-stamped-headers-revoking-tasks-by-their-stamped-headers
STAMP = "job_stamp"

_paused_until = 0.0


def message_of(job: Job) -> Signature[Any]:
    """Return the message of a job's next attempt; ``apply_async()`` sends it, from any thread."""
    return celery_app.signature(
        job.task,
        kwargs=dict(job.kwargs),
        options={
            "task_id": job.id,
            "retries": job.attempts - job.series,
            "headers": {**job.headers, SERIES: job.series, SCHEDULE: job.schedule},
            "stamped_headers": [STAMP],
            STAMP: stamp_of(job),
            # The outcome goes into the row; the result backend is not touched.
            "ignore_result": True,
        },
    )


def stamp_of(job: Job) -> str:
    """Return the name of the present series of attempts."""
    return f"{job.id}:{job.series}"


def publish_soon(message: Signature[Any]) -> None:
    """Send a message. After a recent failure of Redis, leave it to the dispatcher instead."""
    if time.monotonic() >= _paused_until and find_task(message["task"]):
        message.apply_async()


def terminate(stamp: str) -> None:
    """Tell all workers to end the process that runs an attempt of this series."""
    celery_app.control.revoke_by_stamped_headers({STAMP: stamp}, terminate=True)


@cache
def _executor() -> tuple[ThreadPoolExecutor, BoundedSemaphore]:
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="publish-jobs")
    return executor, BoundedSemaphore(MAX_BACKLOG)


def submit(send: Callable[[], None]) -> None:
    """Call ``send`` in another thread and return at once.

    A failure is logged and not raised: the dispatcher publishes what was not published.
    """
    executor, backlog = _executor()
    if not backlog.acquire(blocking=False):
        log.warning("too many messages wait to be published, the dispatcher will publish this one")
        return

    def run() -> None:
        global _paused_until
        try:
            send()
        except (OperationalError, RedisError, OSError) as error:
            _paused_until = time.monotonic() + PAUSE
            log.warning(
                "Redis is unavailable, the dispatcher will publish the jobs", error=str(error)
            )
        except Exception:
            log.exception("a message was not sent")
        finally:
            backlog.release()

    executor.submit(run)


def close_publisher() -> None:
    """Stop the threads. The dispatcher publishes what they have not sent."""
    if _executor.cache_info().currsize:
        executor, _ = _executor()
        _executor.cache_clear()
        executor.shutdown(cancel_futures=True)


if hasattr(os, "register_at_fork"):  # The threads do not exist in a forked child.
    os.register_at_fork(after_in_child=_executor.cache_clear)
