"""The Celery app: its settings, its schedule and the database for its tasks.

Each setting that departs from Celery's default says why. All of them:
https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

import functools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from asgi_correlation_id import correlation_id
from celery import Celery, Task, signals
from celery.result import AsyncResult
from celery.schedules import crontab
{% if cookiecutter.use_backup %}
from kombu import Queue
{% endif %}
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from structlog.contextvars import bind_contextvars, clear_contextvars

from app.core import worker  # noqa: F401  what happens when a worker or beat starts
from app.core.broker import install
from app.core.config.settings import settings
from app.core.database import ping_database
from app.core.logging import configure_logging

P = ParamSpec("P")
R = TypeVar("R")

APP_FOLDER = Path(__file__).parents[1]


def task_modules() -> list[str]:
    """Return the name of every module in ``app/tasks/``, without importing one."""
    files = sorted((APP_FOLDER / "tasks").rglob("*.py"))
    names = [".".join(file.relative_to(APP_FOLDER.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


MAX_TIMES_LOST = 5


class AppTask(Task[..., Any]):
    """The base of all tasks."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Give up a task that takes its process down again and again, such as by its memory."""
        if self.request.get("times_lost", 0) > MAX_TIMES_LOST:
            raise RuntimeError(f"given up: its process was lost {MAX_TIMES_LOST + 1} times")

    def apply_async(
        self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
    ) -> AsyncResult[Any]:
        """Queue the task.

        Raises:
            ValueError: it is to run so late that its message would count as forgotten, and run
                twice. Put it into the schedule, or its time into the database.
        """
        wait = options.get("countdown") or 0
        if options.get("eta"):
            wait = (options["eta"] - datetime.now(options["eta"].tzinfo)).total_seconds()
        if wait >= settings.celery.CELERY_VISIBILITY_TIMEOUT:
            raise ValueError(f"{self.name} would wait longer than CELERY_VISIBILITY_TIMEOUT")
        return super().apply_async(args, kwargs, *more, **options)


# One quick second try: an API request must not hang when Redis is away.
RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}

celery_app = Celery(
    "app",
    broker=settings.celery.CELERY_BROKER_URL,
    backend=settings.celery.CELERY_RESULT_BACKEND,
    include=task_modules(),
    task_cls=AppTask,
)
# Also for threads other than the one that imports this, such as those that run the routes.
celery_app.set_default()
# Messages of killed workers are neither lost nor late.
install(celery_app)

celery_app.conf.update(
    task_serializer=settings.celery.CELERY_TASK_SERIALIZER,
    result_serializer=settings.celery.CELERY_RESULT_SERIALIZER,
    # Unpickling a message would run what it says.
    accept_content=["json"],
    timezone=settings.celery.CELERY_TIMEZONE,
    enable_utc=settings.celery.CELERY_ENABLE_UTC,
    worker_concurrency=settings.celery.CELERY_WORKER_CONCURRENCY,
    # A task is acknowledged when it is done, so one whose worker is killed runs again ...
    # https://docs.celeryq.dev/en/stable/faq.html#should-i-use-retry-or-acks-late
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # ... but not when only the acknowledgement was lost: its result tells that it was done.
    worker_deduplicate_successful_tasks=True,
    # A worker takes no more than it can work on: what it holds waits for it alone.
    # https://docs.celeryq.dev/en/stable/userguide/optimizing.html#prefetch-limits
    worker_prefetch_multiplier=1,
    task_track_started=True,
    task_soft_time_limit=settings.celery.CELERY_TASK_SOFT_TIME_LIMIT,
    task_time_limit=settings.celery.CELERY_TASK_TIME_LIMIT,
    result_expires=settings.celery.CELERY_RESULT_EXPIRES,
    # Leaks end with the process that leaks.
    worker_max_tasks_per_child=settings.celery.CELERY_WORKER_MAX_TASKS_PER_CHILD,
    worker_max_memory_per_child=settings.celery.CELERY_WORKER_MAX_MEMORY_PER_CHILD_MB * 1024,
    # Counts from SIGQUIT; from SIGTERM only with REMAP_SIGTERM=SIGQUIT in the environment.
    # https://docs.celeryq.dev/en/stable/userguide/workers.html#soft-shutdown
    worker_soft_shutdown_timeout=settings.celery.CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT,
    worker_hijack_root_logger=False,
    # Wait for Redis at start and after an outage, for ever; tasks that run go on meanwhile.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    # Threads of the API share these connections; waiting for one is bounded.
    broker_pool_limit=20,
    broker_pool_acquire_timeout=2,
    # https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html
    broker_transport_options={
        # What a living worker has held for so long was forgotten and runs again. So it must be
        # longer than every time limit and countdown: app/core/worker.py checks them at start.
        "visibility_timeout": settings.celery.CELERY_VISIBILITY_TIMEOUT,
        # One list per queue, so that a worker can wait for it.
        "priority_steps": [0],
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
        **RETRY_ONCE,
    },
    result_backend_transport_options={"retry_policy": RETRY_ONCE},
    # One set of connections per process, not per thread.
    result_backend_thread_safe=True,
    redis_socket_timeout=5,
    redis_socket_connect_timeout=2,
    redis_socket_keepalive=True,
    redis_backend_health_check_interval=25,
    task_publish_retry=True,
    task_publish_retry_policy=RETRY_ONCE,
    # The schedule is in Redis, under a lock: a second beat waits instead of doubling every run.
    # https://redbeat.readthedocs.io/en/latest/config.html
    beat_scheduler="app.core.heartbeat.Scheduler",
    redbeat_redis_url=settings.celery.CELERY_BROKER_URL,
    redbeat_lock_timeout=30,
    # Wait for Redis, for ever.
    redbeat_redis_options={"retry_period": -1, "socket_timeout": 5, "socket_connect_timeout": 2},
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


@signals.setup_logging.connect
def _use_our_logging(**_: object) -> None:
    configure_logging()


# The HTTP request's id goes with the task that it queues, and on to the tasks that this queues.


@signals.before_task_publish.connect
def _send_request_id(headers: dict[str, Any], **_: object) -> None:
    headers["request_id"] = correlation_id.get()


@signals.task_prerun.connect
def _begin_log_context(task: Task[..., Any], task_id: str, **_: object) -> None:
    # What the schedule queues has no request; the first task gives its id to the family.
    correlation_id.set(task.request.get("request_id") or task.request.root_id)
    bind_contextvars(task=task.name, task_id=task_id)


@signals.task_postrun.connect
def _end_log_context(**_: object) -> None:
    correlation_id.set(None)
    clear_contextvars()
