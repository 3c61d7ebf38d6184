"""Settings of the API: environment, tokens, limits, proxies, hosts and CORS."""

from typing import Annotated, Literal

from limits import parse
from pydantic import AfterValidator, Field

from app.core.config.base import CommaSeparated, SettingsGroup


def check_rate_limit(value: str) -> str:
    """Check the notation, such as ``10/minute``: https://limits.readthedocs.io/en/stable/quickstart.html"""
    try:
        if parse(value).amount < 1:
            raise ValueError
    except ValueError:
        raise ValueError("must be a limit such as 10/minute") from None
    return value


RateLimit = Annotated[str, AfterValidator(check_rate_limit)]


class AppSettings(SettingsGroup):
    """Settings of the API."""

    ENVIRONMENT: Literal["development", "production"] = "development"
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    DOCS_ENABLED: bool = True
    # The port of the API, when started by ``python -m dev``.
    PORT: int = Field(default=8000, ge=1, le=65535)

    # Signs access tokens and hashes refresh tokens: a new key ends every login. It has no default.
    SECRET_KEY: str = Field(min_length=32, repr=False)
    ACCESS_TOKEN_MINUTES: int = Field(default=15, ge=1, le=525_600)
    REFRESH_TOKEN_DAYS: int = Field(default=14, ge=1, le=36_500)
    # A refresh token may be sent again for this long, in case the first answer was lost.
    REFRESH_TOKEN_GRACE_SECONDS: int = Field(default=10, ge=0)

    # Passwords hashed at the same time per process. Each takes 19 MiB and one CPU core.
    PASSWORD_HASH_CONCURRENCY: int = Field(default=2, ge=1)
    # Failed logins per account and per client address, and registrations per client address.
    LOGIN_RATE_LIMIT: RateLimit = "10/minute"
    LOGIN_ADDRESS_RATE_LIMIT: RateLimit = "100/minute"
    REGISTRATION_RATE_LIMIT: RateLimit = "60/minute"
    # Bytes. A route can have its own limit: https://fastapi.tiangolo.com/advanced/request-body-limits/
    MAX_BODY_SIZE: int = Field(default=1024 * 1024, ge=1)

    # Addresses or networks of the proxies whose X-Forwarded-For header is trusted.
    TRUSTED_PROXIES: CommaSeparated = ()
    # Host names that the API answers to, such as api.example.com or *.example.com. Empty means all.
    TRUSTED_HOSTS: CommaSeparated = ()
    # Origins whose pages may call the API from a browser, such as https://app.example.com.
    CORS_ORIGINS: CommaSeparated = ()
