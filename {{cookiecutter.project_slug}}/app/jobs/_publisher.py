"""Sends the Celery messages of jobs, outside the request that queued them."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import BoundedSemaphore
from typing import Any, Self

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.core.celery import celery_app, find_task
from app.models.job import Job

log = structlog.get_logger(__name__)

THREADS = 8
# Messages that wait for a thread. Beyond this they are left to the dispatcher.
MAX_BACKLOG = 2_000
# Seconds after a failure in which nothing is published: failing each time would slow requests down.
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


@dataclass(frozen=True)
class Message:
    """What it takes to publish a job: a copy, since sessions do not cross threads."""

    id: str
    task: str
    kwargs: dict[str, Any]
    attempts: int
    series: int
    schedule: str | None
    headers: dict[str, Any]

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return the message of the next attempt of a job."""
        return cls(
            job.id,
            job.task,
            dict(job.kwargs),
            job.attempts,
            job.series,
            job.schedule,
            dict(job.headers),
        )

    @property
    def stamp(self) -> str:
        """Return the name of this series of attempts."""
        return f"{self.id}:{self.series}"

    def publish(self) -> None:
        """Send the message.

        Raises:
            kombu.exceptions.OperationalError: Redis does not answer.
        """
        task = find_task(self.task)
        if task is None:  # The dispatcher fails the job.
            return
        options: dict[str, Any] = {
            "task_id": self.id,
            "retries": self.attempts - self.series,
            "headers": {**self.headers, SERIES: self.series, SCHEDULE: self.schedule},
            "stamped_headers": [STAMP],
            STAMP: self.stamp,
            # The outcome goes into the row; the result backend is not touched.
            "ignore_result": True,
        }
        task.apply_async(kwargs=self.kwargs, **options)

    def publish_soon(self) -> None:
        """Send the message, unless Redis failed a moment ago: the dispatcher sends it then."""
        if time.monotonic() >= _paused_until:
            self.publish()

    def terminate(self) -> None:
        """Tell all workers to end the process that runs this attempt."""
        celery_app.control.revoke_by_stamped_headers({STAMP: self.stamp}, terminate=True)


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
    """End the threads. What they have not sent is left to the dispatcher."""
    if _executor.cache_info().currsize:
        executor, _ = _executor()
        _executor.cache_clear()
        executor.shutdown(cancel_futures=True)


if hasattr(os, "register_at_fork"):  # The threads do not exist in a forked child.
    os.register_at_fork(after_in_child=_executor.cache_clear)
