"""Rate limits of logins and registrations.

{% if cookiecutter.use_redis %}
The counters are in Redis, shared by all API processes. When Redis fails, each process counts on
its own.
{% else %}
Each API process has its own counters.
{% endif %}
"""

from collections.abc import Callable
{% if cookiecutter.use_redis %}
from functools import cache
{% endif %}
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TypeVar

{% if cookiecutter.use_redis %}
import structlog
{% endif %}
from limits import parse
{% if cookiecutter.use_redis %}
from limits.errors import StorageError
{% endif %}
from limits.storage import MemoryStorage{% if cookiecutter.use_redis %}, RedisStorage{% endif +%}
from limits.strategies import FixedWindowRateLimiter

from app.core.config.settings import settings
{% if cookiecutter.use_redis %}
from app.core.redis import get_redis
{% endif %}
from app.core.security import keyed_hash

T = TypeVar("T")
in_process = FixedWindowRateLimiter(MemoryStorage())
{% if cookiecutter.use_redis %}
log = structlog.get_logger(__name__)
{% endif %}


class RateLimitExceededError(Exception):
    """There were too many attempts. ``retry_after`` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


class RateLimit:
    """A number of attempts per time, for each key. Keys are hashed, since clients choose them."""

    def __init__(self, name: str, limit: str) -> None:
        self.name = name
        self.limit = parse(limit)

    def hit(self, key: str) -> None:
        """Count an attempt.

        Raises:
            RateLimitExceededError: It is one too many.
        """
        if not self._call(FixedWindowRateLimiter.hit, key):
            raise RateLimitExceededError(self.limit.get_expiry())

    def check(self, key: str) -> None:
        """Check that another attempt is allowed, without counting it.

        Raises:
            RateLimitExceededError: It is not.
        """
        if not self._call(FixedWindowRateLimiter.test, key):
            raise RateLimitExceededError(self.limit.get_expiry())

    def clear(self, key: str) -> None:
        """Forget all attempts."""
        self._call(FixedWindowRateLimiter.clear, key)

    def _call(self, method: Callable[..., T], key: str) -> T:
        arguments = self.limit, self.name, keyed_hash(self.name, key)
{% if cookiecutter.use_redis %}
        try:
            return method(in_redis(), *arguments)
        except StorageError as error:
            log.warning("Redis failed, this process counts on its own", error=str(error))
{% endif %}
        return method(in_process, *arguments)


logins = RateLimit("login", settings.app.LOGIN_RATE_LIMIT)
failed_logins = RateLimit("failed-login", settings.app.LOGIN_ADDRESS_RATE_LIMIT)
registrations = RateLimit("registration", settings.app.REGISTRATION_RATE_LIMIT)


def network_of(address: str) -> str:
    """Return what identifies a client: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        return str(ip.ipv4_mapped or ip_network((int(ip), 64), strict=False))
    return str(ip)
{% if cookiecutter.use_redis %}


@cache
def in_redis() -> FixedWindowRateLimiter:
    """Return the limiter that all processes share."""
    return FixedWindowRateLimiter(
        RedisStorage(
            settings.redis.REDIS_URL,
            connection_pool=get_redis().connection_pool,
            key_prefix=f"{settings.redis.REDIS_KEY_PREFIX}limits",
            wrap_exceptions=True,
        )
    )
{% endif %}
