"""The application's own Redis client. It connects when it is first used."""

from functools import cache

from redis import Redis

from app.core.config.settings import settings


@cache
def get_redis() -> Redis:
    """Return this process's client. Redis away is noticed within a second, not a minute."""
    return Redis.from_url(
        settings.redis.REDIS_URL, socket_connect_timeout=1, socket_timeout=1, decode_responses=True
    )


def ping_redis() -> None:
    """Ask Redis for an answer.

    Raises:
        redis.exceptions.RedisError: it does not give one.
    """
    get_redis().ping()
