"""Where Redis is."""

import re

from pydantic import RedisDsn, TypeAdapter, field_validator

from app.core.config.base import SettingsGroup


def check_redis_url(value: str) -> str:
    """Return the URL as each client reads it; raise ValueError unless it is a Redis URL."""
    TypeAdapter(RedisDsn).validate_python(value)
    # Python's own name is CERT_REQUIRED; the Redis client knows required alone.
    return re.sub(r"(?<=ssl_cert_reqs=)CERT_(\w+)", lambda match: match[1].lower(), value)


class RedisSettings(SettingsGroup):
    """The application's own Redis database."""

    REDIS_URL: str = "redis://localhost:6379/0"

    @field_validator("REDIS_URL")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        return check_redis_url(value)
