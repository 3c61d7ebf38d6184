"""The application's own Redis client. It connects when it is first used."""

from functools import cache

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core.config.settings import settings


@cache
def get_redis() -> Redis:
    """Return this process's client.

    Redis away is noticed in a second; the client's default is to retry for several.
    """
    return Redis.from_url(
        settings.redis.REDIS_URL,
        socket_connect_timeout=1,
        socket_timeout=1,
        retry=Retry(NoBackoff(), 1),
        decode_responses=True,
    )


def ping_redis() -> None:
    """Ask Redis for an answer.

    Raises:
        redis.exceptions.RedisError: it does not give one.
    """
    get_redis().ping()
