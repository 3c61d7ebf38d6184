"""The Celery app: its settings, its schedule and the database for its tasks.

Each setting that departs from Celery's default says why. All of them:
https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from asgi_correlation_id import correlation_id
from celery import Celery, Task, signals
from celery.schedules import crontab
{% if cookiecutter.use_backup %}
from kombu import Queue
{% endif %}
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from app.core.config.settings import settings
from app.core.database import dispose_engine, ping_database
from app.core.logging import configure_logging

P = ParamSpec("P")
R = TypeVar("R")

APP_FOLDER = Path(__file__).parents[1]


def task_modules() -> list[str]:
    """Return the name of every module in ``app/tasks/``, without importing one."""
    files = sorted((APP_FOLDER / "tasks").rglob("*.py"))
    names = [".".join(file.relative_to(APP_FOLDER.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


# Seconds. Of a task: first a SoftTimeLimitExceeded that it may catch, then the end of its process.
TASK_SOFT_TIME_LIMIT = 5 * 60
TASK_TIME_LIMIT = 6 * 60
# After this long an unfinished task is given to another worker, so it must be longer than every
# time limit and countdown, or tasks run twice.
# https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout
VISIBILITY_TIMEOUT = 2 * 60 * 60

# One quick second try: an API request must not hang when Redis is away.
RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}

celery_app = Celery(
    "app",
    broker=settings.celery.CELERY_BROKER_URL,
    backend=settings.celery.CELERY_RESULT_BACKEND,
    include=task_modules(),
)
# Also for threads other than the one that imports this, such as those that run the routes.
celery_app.set_default()

celery_app.conf.update(
    task_serializer=settings.celery.CELERY_TASK_SERIALIZER,
    result_serializer=settings.celery.CELERY_RESULT_SERIALIZER,
    accept_content=["json"],
    timezone=settings.celery.CELERY_TIMEZONE,
    enable_utc=settings.celery.CELERY_ENABLE_UTC,
    worker_concurrency=settings.celery.CELERY_WORKER_CONCURRENCY,
    # A task is acknowledged when it is done, so one whose worker is killed runs again.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # A worker takes no more than it can work on: what it holds waits for it alone.
    worker_prefetch_multiplier=1,
    task_track_started=True,
    task_soft_time_limit=TASK_SOFT_TIME_LIMIT,
    task_time_limit=TASK_TIME_LIMIT,
    result_expires=24 * 60 * 60,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_pool_acquire_timeout=2,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
        **RETRY_ONCE,
    },
    result_backend_transport_options={"retry_policy": RETRY_ONCE},
    redis_socket_timeout=5,
    redis_socket_connect_timeout=2,
    redis_socket_keepalive=True,
    redis_backend_health_check_interval=25,
    task_publish_retry=True,
    task_publish_retry_policy=RETRY_ONCE,
    # Cancelling them would leave them waiting for the visibility timeout.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_soft_shutdown_timeout=10,
    # The schedule is in Redis, under a lock: a second beat waits instead of doubling every run.
    # https://redbeat.readthedocs.io/en/latest/config.html
    beat_scheduler="app.core.heartbeat.Scheduler",
    redbeat_redis_url=settings.celery.CELERY_BROKER_URL,
    redbeat_lock_timeout=30,
    beat_max_loop_interval=5,
    # Imported by the worker when it starts, for its signal handlers.
    imports=["app.core.heartbeat"],
{% if cookiecutter.use_backup %}
    # A worker serves all of them, or those that -Q names: one with -Q celery is never kept
    # waiting by a backup. Without a routing key of its own a queue would get every task.
    task_queues=[Queue(name, routing_key=name) for name in ("celery", "backup")],
    task_routes={"app.tasks.backup_database_task.*": {"queue": "backup"}},
{% endif %}
)

celery_app.conf.beat_schedule = {
{% if cookiecutter.use_backup %}
    "backup-database-daily": {
        "task": "app.tasks.backup_database_task.backup_database_task",
        "schedule": crontab(hour=3, minute=0),
        "kwargs": {"retention_days": settings.backup.BACKUP_RETENTION_DAYS},
    },
{% endif %}
    "cleanup-expired-tokens": {
        "task": "app.tasks.cleanup.cleanup_expired_tokens",
        "schedule": crontab(hour=0, minute=0),
    },
}


class DatabaseUnavailableError(Exception):
    """The database does not answer. Worth a retry: name it in a task's ``autoretry_for``."""


def with_db_init(function: Callable[P, R]) -> Callable[P, R]:
    """Make sure that the database answers this process before the task runs.

    Works in every worker pool: the engine belongs to the process that uses it.

    Raises:
        DatabaseUnavailableError: in the task, when the database does not answer or goes away.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            ping_database()
        except (InterfaceError, OperationalError) as error:
            raise _unavailable(error) from None
        try:
            return function(*args, **kwargs)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _unavailable(error) from None
            raise

    return wrapper


def _unavailable(error: DBAPIError) -> DatabaseUnavailableError:
    reason = str(error.orig).strip().splitlines()[0]
    return DatabaseUnavailableError(f"the database does not answer: {reason}")


def ping_broker() -> None:
    """Ask the broker for an answer; raises what the broker's client raises."""
    pool: Any = celery_app.pool
    with pool.acquire(block=True, timeout=1) as connection:
        connection.default_channel.client.ping()


def ping_result_backend() -> None:
    """Ask the result backend for an answer; raises what the backend's client raises."""
    backend: Any = celery_app.backend
    backend.client.ping()


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def _close_database(**_: object) -> None:
    dispose_engine()


@signals.worker_init.connect
def _keep_trying_to_store_results(**_: object) -> None:
    # Only in the worker: in the API it would make a request hang while Redis is away.
    celery_app.conf.result_backend_always_retry = True


@signals.setup_logging.connect
def _use_our_logging(**_: object) -> None:
    configure_logging()


@signals.before_task_publish.connect
def _send_request_id(headers: dict[str, Any], **_: object) -> None:
    headers["request_id"] = correlation_id.get()


@signals.task_prerun.connect
def _take_request_id(task: Task[..., Any], **_: object) -> None:
    correlation_id.set(task.request.get("request_id"))
