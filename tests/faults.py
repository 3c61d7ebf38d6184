"""Tasks for the fault tests, copied into a generated project's ``app/tasks/``.

What ran is written to a file, which no fault touches.
"""

import os
import time
from pathlib import Path
from typing import Any

import structlog
from app.core.celery import DatabaseUnavailableError, celery_app, with_db_init
from app.core.idempotency import once
from celery.exceptions import SoftTimeLimitExceeded

log = structlog.get_logger(__name__)


def note(key: str, event: str) -> None:
    """Append a line; one write, so lines of several processes do not mix."""
    line = f"{key} {event} {os.getpid()} {time.time():.3f}\n"
    descriptor = os.open(Path(os.environ["RUNS_FILE"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@celery_app.task
def nap(key: str, seconds: float = 0) -> str:
    """Sleep."""
    note(key, "start")
    time.sleep(seconds)
    note(key, "end")
    return key


@celery_app.task
def stubborn(key: str) -> None:
    """Ignore the soft time limit."""
    note(key, "start")
    while True:
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            note(key, "soft")


@celery_app.task
def not_json(key: str) -> object:
    """Return what JSON cannot hold."""
    note(key, "start")
    return object()


class OddError(Exception):
    """Its arguments cannot be made from its message, and are not JSON."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"odd {type(one).__name__}", one, two)


@celery_app.task
def odd_error(key: str) -> None:
    """Raise what JSON cannot hold."""
    note(key, "start")
    raise OddError(object(), lambda: None)


@celery_app.task
def suicide(key: str) -> None:
    """Kill the process that runs it, always."""
    note(key, "start")
    os.kill(os.getpid(), 9)


@celery_app.task(
    autoretry_for=(DatabaseUnavailableError,), max_retries=20, retry_backoff=1, retry_backoff_max=2
)
@with_db_init
def with_database(key: str) -> str:
    """Use the database."""
    note(key, "end")
    return key


@celery_app.task
def family(key: str, generations: int) -> str:
    """Queue a child."""
    log.info("family", key=key, generations=generations)
    if generations:
        family.delay(key, generations - 1)
    note(key, "end")
    return key


@celery_app.task(bind=True, max_retries=2)
def try_twice(self: Any, key: str) -> str:
    """Fail the first time."""
    log.info("try_twice", key=key)
    if not self.request.retries:
        raise self.retry(countdown=0)
    note(key, "end")
    return key


@celery_app.task
def secret(key: str, password: str) -> None:
    """Fail with a secret among the arguments."""
    note(key, "start")
    raise ValueError("no")


@celery_app.task
@once()
def effect(key: str, seconds: float) -> str:
    """Have an effect, slowly."""
    note(key, "start")
    time.sleep(seconds)
    note(key, "end")
    return key


@celery_app.task
def tick() -> None:
    """Be due."""
    note("tick", "start")


if "BEAT_EVERY" in os.environ:
    celery_app.conf.beat_schedule["tick"] = {
        "task": "app.tasks.faults.tick",
        "schedule": float(os.environ["BEAT_EVERY"]),
    }
