"""Redis settings."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, RedisDsn, TypeAdapter

from app.core.config.base import SettingsGroup


def check_redis_url(value: str) -> str:
    """Return the URL in the spelling that all clients understand.

    Raises:
        ValueError: It is not a Redis URL.
    """
    if value.startswith("sentinel://"):
        return value
    TypeAdapter(RedisDsn).validate_python(value)
    path = re.search(r"^\w+://[^/]+/([^?]*)", value)
    if path and not path[1].isdecimal() and path[1]:
        raise ValueError("the path must be the number of a database, such as /0")
    # The standard library's name is CERT_REQUIRED; redis-py knows only the short form.
    return re.sub(r"(?<=ssl_cert_reqs=)CERT_(\w+)", lambda match: match[1].lower(), value)


RedisUrl = Annotated[str, AfterValidator(check_redis_url)]


class RedisSettings(SettingsGroup):
    """The application's own Redis database."""

    REDIS_URL: RedisUrl = "redis://localhost:6379/0"
    # Every key starts with it, so that projects can share a Redis server.
    REDIS_KEY_PREFIX: str = Field(default="{{ cookiecutter.project_slug }}:", pattern=r"^[\w:.-]+$")
