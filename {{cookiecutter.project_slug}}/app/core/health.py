"""Readiness probes with timeouts."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Generic, TypeVar

import structlog
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, column, inspect, select, table, text

{% if cookiecutter.use_celery %}
from app.core.celery import ping_broker
{% endif %}
from app.core.config.base import PROJECT_ROOT
from app.core.database import make_engine
{% if cookiecutter.use_redis %}
from app.core.redis import ping_redis
{% endif %}

T = TypeVar("T")

TIMEOUT_SECONDS = 1.5

log = structlog.get_logger(__name__)


class PendingMigrationsError(Exception):
    """The database lacks migrations."""


class Probe(Generic[T]):
    """Calls a function in a thread of its own, so that one that hangs holds up nothing else."""

    def __init__(self, name: str, function: Callable[[], T]) -> None:
        self.name = name
        self._function = function
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"probe-{name}")
        self._pending: Future[T] | None = None

    async def call(self) -> T:
        """Return what the function returns, or raise what it raises.

        Raises:
            TimeoutError: It did not return within ``TIMEOUT_SECONDS``.
        """
        # A call that still hangs is waited for again: there is never more than one.
        if self._pending is None or self._pending.done():
            self._pending = self._executor.submit(self._function)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await asyncio.shield(asyncio.wrap_future(self._pending))


@cache
def get_monitoring_engine() -> Engine:
    """Return an engine for health checks and metrics.

    Its connections are its own, so that it works when requests use all the others.
    """
    return make_engine(timeout=1)


def check_database() -> None:
    """Run a query that does nothing.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database does not answer.
    """
    with get_monitoring_engine().connect() as connection:
        connection.execute(text("SELECT 1"))


def check_migrations() -> None:
    """Compare the revision of the database with the newest migration.

    A revision that is not known here belongs to a newer version of the application. While that
    one is being deployed, this one is still ready.

    Raises:
        PendingMigrationsError: The database lacks migrations.
        sqlalchemy.exc.SQLAlchemyError: The database does not answer.
    """
    version = table("alembic_version", column("version_num"))
    with get_monitoring_engine().connect() as connection:
        exists = inspect(connection).has_table(version.name)
        applied = set(connection.scalars(select(version))) if exists else set()
    known, heads = _migrations()
    if applied <= known and applied != heads:
        raise PendingMigrationsError("pending: run alembic upgrade head")


@cache
def _migrations() -> tuple[set[str], set[str]]:
    scripts = ScriptDirectory.from_config(Config(toml_file=PROJECT_ROOT / "pyproject.toml"))
    return {script.revision for script in scripts.walk_revisions()}, set(scripts.get_heads())


DEPENDENCIES = [
    Probe("database", check_database),
    Probe("migrations", check_migrations),
{% if cookiecutter.use_redis %}
    Probe("redis", ping_redis),
{% endif %}
{% if cookiecutter.use_celery %}
    Probe("broker", ping_broker),
{% endif %}
]
# Requests fail without these.
REQUIRED = ("database", "migrations")


async def check_dependencies() -> dict[str, str]:
    """Return the state of each dependency, such as "ok" or "down", within two seconds."""
    states = await asyncio.gather(*map(_state, DEPENDENCIES))
    return {probe.name: state for probe, state in zip(DEPENDENCIES, states, strict=True)}


def describe(error: Exception) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


async def _state(probe: Probe[None]) -> str:
    try:
        await probe.call()
    except PendingMigrationsError as error:
        log.error(f"migrations are {error}")
        return str(error)
    except Exception as error:
        log.warning("dependency is down", dependency=probe.name, error=describe(error))
        return "down"
    return "ok"
