"""Is what this process depends on there? Each dependency answers, or is down, in bounded time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

{% if cookiecutter.use_celery %}
from app.core.celery import ping_broker
{% endif %}
from app.core.database import ping_database
{% if cookiecutter.use_redis %}
from app.core.redis import ping_redis
{% endif %}

TIMEOUT_SECONDS = 1.5
log = structlog.get_logger(__name__)


class Probe:
    """Asks one dependency in a thread of its own, so that a hanging one holds up nothing else."""

    def __init__(self, name: str, ping: Callable[[], object]) -> None:
        self.name = name
        self._ping = ping
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"probe-{name}")
        self._pending: Future[object] | None = None

    async def is_up(self) -> bool:
        """Return whether the dependency answers within ``TIMEOUT_SECONDS``."""
        if self._pending is None or self._pending.done():
            self._pending = self._executor.submit(self._ping)
        # A question that still hangs is waited for again: there is never more than one.
        answer = asyncio.wrap_future(self._pending)
        try:
            await asyncio.wait_for(asyncio.shield(answer), TIMEOUT_SECONDS)
        except Exception as error:
            log.warning("dependency is down", dependency=self.name, error=repr(error))
            return False
        return True


def probes() -> list[Probe]:
    """Return a probe for each dependency that the project has."""
    return [
        Probe("database", ping_database),
{% if cookiecutter.use_redis %}
        Probe("redis", ping_redis),
{% endif %}
{% if cookiecutter.use_celery %}
        Probe("broker", ping_broker),
{% endif %}
    ]
