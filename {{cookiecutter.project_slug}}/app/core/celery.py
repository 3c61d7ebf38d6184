"""The Celery application, its configuration and its schedule.

https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

import functools
import inspect
import logging.handlers
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from asgi_correlation_id import correlation_id
from celery import Celery, Task, current_task, signals
from celery.schedules import crontab
from sqlalchemy.exc import DBAPIError{{ ", OperationalError" if cookiecutter.database != "sqlite" }}
from structlog.contextvars import bind_contextvars, clear_contextvars

from app.core.config.settings import settings
from app.core.database import get_engine
from app.core.logging import configure_logging

P = ParamSpec("P")
R = TypeVar("R")

TASKS = Path(__file__).parents[1] / "tasks"
# Publishing fails after one more try, so that nothing hangs while Redis is unavailable.
RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}


def find_task_modules() -> list[str]:
    """Return the modules and packages in ``app/tasks`` whose names begin with neither . nor _."""
    paths = (path.relative_to(TASKS).with_suffix("") for path in sorted(TASKS.rglob("*.py")))
    names = ([part for part in path.parts if part != "__init__"] for path in paths)
    return [
        ".".join(("app", "tasks", *name))
        for name in names
        if name and not any(part.startswith((".", "_")) for part in name)
    ]


celery_app = Celery(
    "app",
    broker=settings.celery.CELERY_BROKER_URL,
    backend=settings.celery.CELERY_RESULT_BACKEND,
    include=["app.jobs.worker", *find_task_modules()],
    task_cls="app.jobs.task:JobTask",
)
celery_app.set_default()  # Also in the threads that run FastAPI's routes.

celery_app.conf.update(
    task_serializer=settings.celery.CELERY_TASK_SERIALIZER,
    result_serializer=settings.celery.CELERY_RESULT_SERIALIZER,
    accept_content=["json"],  # Unpickling a message can execute code.
    timezone=str(settings.celery.CELERY_TIMEZONE),
    enable_utc=settings.celery.CELERY_ENABLE_UTC,
    worker_concurrency=settings.celery.CELERY_WORKER_CONCURRENCY,
    task_soft_time_limit=settings.celery.CELERY_TASK_SOFT_TIME_LIMIT,
    task_time_limit=settings.celery.CELERY_TASK_TIME_LIMIT,
    # A worker takes only messages that it can work on.
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # Counts from SIGTERM if REMAP_SIGTERM=SIGQUIT is in the environment.
    worker_soft_shutdown_timeout=settings.celery.CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT,
    worker_hijack_root_logger=False,
    # Wait for Redis at start and after an outage; running tasks go on meanwhile.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    # Without limits a command waits for minutes when Redis hangs.
    broker_transport_options={
        "global_keyprefix": settings.redis.REDIS_KEY_PREFIX,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
        **RETRY_ONCE,
    },
    result_backend_transport_options={"global_keyprefix": settings.redis.REDIS_KEY_PREFIX},
    redis_socket_timeout=5,
    redis_socket_connect_timeout=2,
    task_publish_retry_policy=RETRY_ONCE,
    # Runs of the schedule are jobs, and beat publishes jobs that were not published yet.
    beat_scheduler="app.jobs.scheduler:JobScheduler",
    beat_max_loop_interval=2,
)

celery_app.conf.beat_schedule = {
{% if cookiecutter.use_backup %}
    "backup-database-daily": {
        "task": "app.tasks.backup_database_task.backup_database_task",
        "schedule": crontab(hour=3, minute=0),
        "kwargs": {"retention_days": settings.backup.BACKUP_RETENTION_DAYS},
    },
    "verify-backup-daily": {
        "task": "app.tasks.backup_database_task.verify_backup_task",
        "schedule": crontab(hour=4, minute=0),
    },
{% endif %}
    "cleanup-expired-tokens": {
        "task": "app.tasks.cleanup.cleanup_expired_tokens",
        "schedule": crontab(hour=0, minute=0),
    },
}


def is_outage(error: DBAPIError) -> bool:
    """Return whether the database cannot be reached, rather than has refused a statement."""
{% if cookiecutter.database == "sqlite" %}
    name = getattr(error.orig, "sqlite_errorname", "")
    return name.startswith(("SQLITE_BUSY", "SQLITE_CANTOPEN"))
{% else %}
    # {{ "Without a code of the server" if cookiecutter.database == "postgresql" else "With a code of the client" }}, there was no connection.
    code = {{ 'getattr(error.orig, "sqlstate", None)' if cookiecutter.database == "postgresql" else 'getattr(error.orig, "args", [0])[0]' }}
    is_lost = isinstance(error, OperationalError) and {{ "code is None" if cookiecutter.database == "postgresql" else "code in range(2000, 3000)" }}
    if error.connection_invalidated or is_lost:
        return True
    try:
        get_engine().connect().close()  # Pings a connection that is open already.
    except DBAPIError:
        return True
    return False
{% endif %}


def with_db_init(function: Callable[P, R]) -> Callable[P, R]:
    """Retry a task while the database is unavailable: up to eight times, four minutes in all."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            get_engine().connect().close()
            return function(*args, **kwargs)
        except DBAPIError as error:
            if not current_task or not is_outage(error):
                raise
            countdown = 2**current_task.request.retries
            raise current_task.retry(exc=error, countdown=countdown, max_retries=8) from error

    # So that arguments are checked. Celery and ``enqueue`` do not look behind ``functools.wraps``.
    wrapper.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return wrapper


@signals.worker_process_init.connect
def _forget_inherited_engine(**_: object) -> None:
    # https://docs.sqlalchemy.org/en/21/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork
    if get_engine.cache_info().currsize:
        get_engine().dispose(close=False)


@signals.setup_logging.connect
def _configure_logging(loglevel: int, logfile: str | None, **_: object) -> None:
    configure_logging()
    root = logging.getLogger()
    root.setLevel(loglevel)
    if logfile:
        handler = logging.handlers.WatchedFileHandler(logfile)
        handler.setFormatter(root.handlers[0].formatter)
        root.handlers = [handler]


@signals.worker_ready.connect
@signals.heartbeat_sent.connect  # Every two seconds, from the main loop of the worker.
def touch_heartbeat_file(**_: object) -> None:
    """Touch ``CELERY_HEARTBEAT_FILE``, so that its age tells whether the process works."""
    if settings.celery.CELERY_HEARTBEAT_FILE:
        settings.celery.CELERY_HEARTBEAT_FILE.touch()


# The id of a request is in the logs of the tasks that it queues, and of those that these queue.
@signals.before_task_publish.connect
def _send_request_id(headers: dict[str, Any], **_: object) -> None:
    headers.setdefault("request_id", correlation_id.get())


@signals.task_prerun.connect
def _begin_task(task: Task[..., Any], task_id: str, **_: object) -> None:
    correlation_id.set(task.request.get("request_id"))
    bind_contextvars(task=task.name, task_id=task_id)


@signals.task_postrun.connect
def _end_task(**_: object) -> None:
    correlation_id.set(None)
    clear_contextvars()
