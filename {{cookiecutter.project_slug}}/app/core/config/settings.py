"""The settings: ``from app.core.config.settings import settings``."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.core.config.app import AppSettings
{% if cookiecutter.use_backup %}
from app.core.config.backup import BackupSettings
{% endif %}
from app.core.config.base import ENV_FILE, SettingsGroup
{% if cookiecutter.use_celery %}
from app.core.config.celery import CelerySettings
{% endif %}
from app.core.config.database import DatabaseSettings
from app.core.config.env_file import check_env_file
from app.core.config.monitoring import MonitoringSettings
{% if cookiecutter.use_redis %}
from app.core.config.redis import RedisSettings
{% endif %}


class Settings(BaseModel):
    """All groups of settings. Each reads the environment and ``.env`` when it is created."""

    model_config = ConfigDict(frozen=True)

    app: AppSettings = Field(default_factory=AppSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
{% if cookiecutter.use_redis %}
    redis: RedisSettings = Field(default_factory=RedisSettings)
{% endif %}
{% if cookiecutter.use_celery %}
    celery: CelerySettings = Field(default_factory=CelerySettings)
{% endif %}
{% if cookiecutter.use_backup %}
    backup: BackupSettings = Field(default_factory=BackupSettings)
{% endif %}
    monitoring: MonitoringSettings = Field(default_factory=MonitoringSettings)


def load_settings() -> Settings:
    """Read the settings.

    Raises:
        SystemExit: A value is missing or invalid, or ``.env`` has a mistake. The message has one
            line for each, without the value, which may be a secret.
    """
    if ENV_FILE.exists():
        names = {name for group in SettingsGroup.__subclasses__() for name in group.model_fields}
        if mistakes := check_env_file(ENV_FILE, names):
            raise SystemExit("\n".join(mistakes))
    try:
        return Settings()
    except ValidationError as error:
        raise SystemExit("\n".join(map(_line, error.errors()))) from None


def _line(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        message = "is not set"
        if not ENV_FILE.exists():
            message += ", and there is no .env file: create one with python -m dev.env"
    return ": ".join([*map(str, error["loc"]), message])


settings = load_settings()
