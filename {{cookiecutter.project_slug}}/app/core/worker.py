"""What a worker and beat do at their start and end, and what they refuse to start with."""

import os
from importlib import import_module
from typing import Any

import structlog
from celery import Celery, signals
from redis.exceptions import RedisError

from app.core.broker import Guard
from app.core.config.settings import settings
from app.core.database import dispose_engine

log = structlog.get_logger(__name__)
_guards: list[Guard] = []


def problem(app: Celery) -> str | None:
    """Return a line on why tasks would run twice, or for ever, or never; None when all is well."""
    conf: Any = app.conf
    visible = conf.broker_transport_options["visibility_timeout"]
    waits: dict[str, float] = {}
    for name, task in sorted(app.tasks.items()):
        if name.startswith("celery."):
            continue
        soft = task.soft_time_limit or conf.task_soft_time_limit
        hard = task.time_limit or conf.task_time_limit
        if not soft or not hard or soft >= hard:
            return f"{name}: needs a soft_time_limit ({soft}) below its time_limit ({hard})"
        waits[f"{name}'s time_limit"] = hard
        waits[f"{name}'s default_retry_delay"] = task.default_retry_delay
        if getattr(task, "retry_backoff", False):
            waits[f"{name}'s retry_backoff_max"] = getattr(task, "retry_backoff_max", 600)
    for name, entry in conf.beat_schedule.items():
        if entry["task"] not in app.tasks:
            return f"beat_schedule: {name} names {entry['task']}, which is no task"
        waits[f"the countdown of {name}"] = entry.get("options", {}).get("countdown", 0)
    what = max(waits, key=lambda name: waits[name])
    if waits[what] >= visible:
        return f"CELERY_VISIBILITY_TIMEOUT ({visible}) must be above {what} ({waits[what]})"
    return None


@signals.worker_init.connect
@signals.beat_init.connect
def _check(sender: Any, **_: object) -> None:
    production = settings.app.ENVIRONMENT == "production"
    if production and os.name == "posix" and os.geteuid() == 0 and not settings.celery.C_FORCE_ROOT:
        raise SystemExit("ENVIRONMENT is production: not as root. C_FORCE_ROOT=true allows it")
    sender.app.loader.import_default_modules()
    found = problem(sender.app)
    if found:
        raise SystemExit(found)


@signals.worker_init.connect
def _prepare(sender: Any, **_: object) -> None:
    # Only in a worker: in the API it would make a request hang while Redis is away.
    sender.app.conf.result_backend_always_retry = True
    # A task's result stays out of the logs.
    trace: Any = import_module("celery.app.trace")
    trace.LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"


@signals.worker_ready.connect
def _begin(sender: Any, **_: object) -> None:
    state: Any = import_module("celery.worker.state")  # beat and the API need none of it
    guard = Guard(sender.app, settings.celery.CELERY_LOST_WORKER_TIMEOUT)
    _guards.append(guard)
    guard.start()
    try:
        state.merge_revoked(sender.app.backend.revoked_before())
    except RedisError as error:
        log.warning("what was revoked before the start is not known", error=str(error))


@signals.worker_shutdown.connect
def _end(**_: object) -> None:
    while _guards:
        _guards.pop().stop()


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def _close_database(**_: object) -> None:
    dispose_engine()
