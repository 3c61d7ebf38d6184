"""The Celery application, its configuration and its schedule.

Every setting that differs from Celery's default says why. All settings:
https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from asgi_correlation_id import correlation_id
from celery import Celery, Task, current_task, signals, states
from celery.schedules import crontab
from opentelemetry import context, propagate, trace
from sqlalchemy.exc import InterfaceError, OperationalError
from structlog.contextvars import bind_contextvars, clear_contextvars

from app.core.config.settings import settings
from app.core.database import ping_database
from app.core.logging import configure_logging
from app.core.telemetry import configure_telemetry, flush_telemetry

P = ParamSpec("P")
R = TypeVar("R")

APP_FOLDER = Path(__file__).parents[1]


def find_task_modules() -> list[str]:
    """Return the name of every module in ``app/tasks/``, without importing it."""
    files = sorted((APP_FOLDER / "tasks").rglob("*.py"))
    names = [".".join(file.relative_to(APP_FOLDER.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


# Publishing fails after one more try, so that nothing hangs while Redis is unavailable.
RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}

celery_app = Celery(
    "app",
    broker=settings.celery.CELERY_BROKER_URL,
    backend=settings.celery.CELERY_RESULT_BACKEND,
    include=find_task_modules(),
    task_cls="app.jobs._worker:JobTask",
)
# The current application of all threads, such as those that run FastAPI's routes.
celery_app.set_default()

celery_app.conf.update(
    task_serializer=settings.celery.CELERY_TASK_SERIALIZER,
    result_serializer=settings.celery.CELERY_RESULT_SERIALIZER,
    # Unpickling a message can execute code.
    accept_content=["json"],
    timezone=settings.celery.CELERY_TIMEZONE,
    enable_utc=settings.celery.CELERY_ENABLE_UTC,
    worker_concurrency=settings.celery.CELERY_WORKER_CONCURRENCY,
    task_soft_time_limit=settings.celery.CELERY_TASK_SOFT_TIME_LIMIT,
    task_time_limit=settings.celery.CELERY_TASK_TIME_LIMIT,
    result_expires=settings.celery.CELERY_RESULT_EXPIRES,
    # A worker takes only messages that it can work on; the others are left to other workers.
    # https://docs.celeryq.dev/en/stable/userguide/optimizing.html#prefetch-limits
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # Memory leaks end with the process that leaks.
    worker_max_tasks_per_child=settings.celery.CELERY_WORKER_MAX_TASKS_PER_CHILD,
    worker_max_memory_per_child=settings.celery.CELERY_WORKER_MAX_MEMORY_PER_CHILD_MB * 1024,
    # Counts from SIGTERM if REMAP_SIGTERM=SIGQUIT is in the environment.
    # https://docs.celeryq.dev/en/stable/userguide/workers.html#soft-shutdown
    worker_soft_shutdown_timeout=settings.celery.CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT,
    worker_hijack_root_logger=False,
    # Wait for Redis at start and after an outage, without a limit. Running tasks go on meanwhile.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    # The threads that publish share these connections.
    broker_pool_limit=20,
    # Without limits a command waits for minutes when Redis hangs. The prefix keeps projects apart
    # that share a Redis server.
    # https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html
    broker_transport_options={
        "global_keyprefix": settings.redis.REDIS_KEY_PREFIX,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
        **RETRY_ONCE,
    },
    result_backend_transport_options={
        "global_keyprefix": settings.redis.REDIS_KEY_PREFIX,
        "retry_policy": RETRY_ONCE,
    },
    # One set of connections per process, not per thread.
    result_backend_thread_safe=True,
    redis_socket_timeout=5,
    redis_socket_connect_timeout=2,
    redis_socket_keepalive=True,
    redis_backend_health_check_interval=25,
    task_publish_retry_policy=RETRY_ONCE,
    # Runs of the schedule are jobs, and beat publishes jobs that were not published yet.
    beat_scheduler="app.jobs.scheduler:JobScheduler",
    beat_max_loop_interval=5,
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


def find_task(name: str) -> Task[..., Any] | None:
    """Return a task by its full name, importing the modules of tasks if need be."""
    if name not in celery_app.tasks:
        celery_app.loader.import_default_modules()
    return celery_app.tasks.get(name)


class DatabaseUnavailableError(Exception):
    """The database does not answer."""


def with_db_init(function: Callable[P, R]) -> Callable[P, R]:
    """Check that the database answers before a task runs, and retry the task if it does not.

    The task is retried up to eight times, after 1, 2, 4, ... seconds, four minutes in all; also if
    the connection is lost while it runs. The engine is created in the process that uses it.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            ping_database()
            return function(*args, **kwargs)
        except (InterfaceError, OperationalError) as error:
            unavailable = DatabaseUnavailableError(str(error.orig).strip().split("\n")[0])
            if not current_task:
                raise unavailable from error
            countdown = 2**current_task.request.retries
            raise current_task.retry(exc=unavailable, countdown=countdown, max_retries=8) from error

    return wrapper


def check_configuration(app: Celery) -> None:
    """Check tasks and schedule, so that mistakes are reported when the process starts.

    Raises:
        ValueError: A task has no usable time limits or is a coroutine function, or the schedule
            names a task or arguments that do not exist, or has options, which jobs do not take.
    """
    for name, task in sorted(app.tasks.items()):
        if name.startswith("celery."):
            continue
        soft = task.soft_time_limit or app.conf.task_soft_time_limit
        hard = task.time_limit or app.conf.task_time_limit
        if soft >= hard:
            raise ValueError(f"{name}: soft_time_limit ({soft}) must be below time_limit ({hard})")
        if inspect.iscoroutinefunction(inspect.unwrap(task.run)):
            raise ValueError(f"{name}: Celery cannot run async functions, use def")
    for name, entry in app.conf.beat_schedule.items():
        if entry["task"] not in app.tasks:
            raise ValueError(f"beat_schedule: {name} names {entry['task']}, which is not a task")
        if entry.get("options"):
            raise ValueError(f"beat_schedule: {name} has options: use task_routes for its queue")
        try:
            signature = inspect.signature(app.tasks[entry["task"]].run)
            signature.bind(*entry.get("args", ()), **entry.get("kwargs", {}))
        except TypeError as error:
            raise ValueError(f"beat_schedule: the arguments of {name}: {error}") from None


@signals.worker_init.connect
@signals.beat_init.connect
def _check_at_start(sender: Any, **_: object) -> None:
    sender.app.loader.import_default_modules()
    try:
        check_configuration(sender.app)
    except ValueError as error:
        raise SystemExit(str(error)) from None


@signals.worker_init.connect
def _keep_results(sender: Any, **_: object) -> None:
    # A result is stored even if Redis is unavailable when the task ends. Only in workers: in the
    # API, reading a result would hang instead.
    sender.app.conf.result_backend_always_retry = True


@signals.worker_ready.connect
@signals.heartbeat_sent.connect  # Every two seconds, from the main loop of the worker.
def touch_heartbeat_file(**_: object) -> None:
    """Touch ``CELERY_HEARTBEAT_FILE``, so that its age tells whether the process works."""
    if settings.celery.CELERY_HEARTBEAT_FILE:
        settings.celery.CELERY_HEARTBEAT_FILE.touch()


def ping_broker() -> None:
    """Connect to the broker. Raises an error of Kombu or redis-py if it is unreachable."""
    with celery_app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=1)


@signals.setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure_logging()


@signals.celeryd_init.connect
@signals.beat_init.connect
def _configure_telemetry(**_: object) -> None:
    configure_telemetry()


@signals.worker_process_shutdown.connect
def _flush_telemetry(**_: object) -> None:
    flush_telemetry()


# The request's id and trace context are passed to the tasks that it queues, and from there to
# the tasks that these queue.


@signals.before_task_publish.connect
def _send_context(headers: dict[str, Any], **_: object) -> None:
    headers.setdefault("request_id", correlation_id.get())
    if "traceparent" not in headers:
        propagate.inject(headers)


@signals.task_prerun.connect
def _begin_task(task: Task[..., Any], task_id: str, **_: object) -> None:
    request: Any = task.request
    correlation_id.set(request.get("request_id") or request.root_id)
    bind_contextvars(task=task.name, task_id=task_id)
    span = trace.get_tracer(__name__).start_span(
        f"run {task.name}",
        propagate.extract(request.headers or {}),
        trace.SpanKind.CONSUMER,
        {"messaging.message.id": task_id},
    )
    request.span = span, context.attach(trace.set_span_in_context(span))


@signals.task_postrun.connect
def _end_task(task: Task[..., Any], state: str | None, **_: object) -> None:
    request: Any = task.request
    span, token = request.span
    span.set_attribute("celery.state", str(state))
    if state == states.FAILURE:
        span.set_status(trace.StatusCode.ERROR)
    span.end()
    context.detach(token)
    correlation_id.set(None)
    clear_contextvars()
