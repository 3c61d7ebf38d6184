"""How often a login may fail.

{% if cookiecutter.use_redis %}
Counted in Redis, so that all API processes share the count. While Redis is away each process
counts for itself: the limit stays, and nobody is locked out.
{% else %}
Counted in each API process for itself.
{% endif %}
"""

{% if cookiecutter.use_redis %}
from functools import cache

import structlog
{% endif %}
from limits import parse
from limits.storage import MemoryStorage{% if cookiecutter.use_redis %}, RedisStorage{% endif +%}
from limits.strategies import FixedWindowRateLimiter
{% if cookiecutter.use_redis %}
from redis.exceptions import RedisError

from app.core.config.settings import settings
from app.core.redis import get_redis, ping_redis

log = structlog.get_logger(__name__)
{% endif %}

FAILED_LOGINS = parse("10/minute")
_in_process = FixedWindowRateLimiter(MemoryStorage())


def login_is_blocked(address: str, email: str) -> bool:
    """Return whether this address has failed too often with this email in the last minute."""
    return not _limiter().test(FAILED_LOGINS, address, email.lower())


def count_failed_login(address: str, email: str) -> None:
    """Count a login that failed."""
    _limiter().hit(FAILED_LOGINS, address, email.lower())


def _limiter() -> FixedWindowRateLimiter:
{% if cookiecutter.use_redis %}
    try:
        ping_redis()
    except RedisError as error:
        log.warning("failed logins are counted in this process only", error=str(error))
        return _in_process
    return _shared()


@cache
def _shared() -> FixedWindowRateLimiter:
    pool = get_redis().connection_pool
    return FixedWindowRateLimiter(RedisStorage(settings.redis.REDIS_URL, connection_pool=pool))
{% else %}
    return _in_process
{% endif %}
