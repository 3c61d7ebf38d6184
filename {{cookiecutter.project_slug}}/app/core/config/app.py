"""Settings of the API itself."""

from typing import Literal

from pydantic import Field

from app.core.config.base import SettingsGroup


class AppSettings(SettingsGroup):
    """The environment it runs in, its secret and its tokens."""

    ENVIRONMENT: Literal["development", "production"] = "development"
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # The port of the API, when started by ``python -m dev``.
    PORT: int = Field(default=8000, ge=1, le=65535)
    # Signs access tokens and task ids. There is no default: every deployment has its own.
    SECRET_KEY: str = Field(min_length=32, repr=False)
    ACCESS_TOKEN_MINUTES: int = Field(default=15, ge=1)
    REFRESH_TOKEN_DAYS: int = Field(default=14, ge=1)
