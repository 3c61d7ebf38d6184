"""The application's own Redis client. It connects when it is first used."""

from functools import cache

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core.config.settings import settings


@cache
def get_redis() -> Redis:
    """Return this process's client.

    A command fails within one second if Redis is unreachable; by default redis-py retries for
    several seconds.
    """
    return Redis.from_url(
        settings.redis.REDIS_URL,
        socket_connect_timeout=1,
        socket_timeout=1,
        retry=Retry(NoBackoff(), 1),
        decode_responses=True,
    )


def ping_redis() -> None:
    """Send a PING.

    Raises:
        redis.exceptions.RedisError: Redis is unreachable.
    """
    get_redis().ping()
