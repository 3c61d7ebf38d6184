"""Where Redis is."""

from pydantic import RedisDsn, TypeAdapter, field_validator

from app.core.config.base import SettingsGroup


def check_redis_url(value: str) -> str:
    """Return ``value`` unchanged; raise ValueError unless it is a ``redis://`` URL."""
    TypeAdapter(RedisDsn).validate_python(value)
    return value


class RedisSettings(SettingsGroup):
    """The application's own Redis database."""

    REDIS_URL: str = "redis://localhost:6379/0"

    @field_validator("REDIS_URL")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        return check_redis_url(value)
