"""The one ``settings`` object. Nothing else in the project reads the environment."""

from dataclasses import dataclass, field

from pydantic import ValidationError

from app.core.config.app import AppSettings
{% if cookiecutter.use_backup %}
from app.core.config.backup import BackupSettings
{% endif %}
{% if cookiecutter.use_celery %}
from app.core.config.celery import CelerySettings
{% endif %}
from app.core.config.database import DatabaseSettings
from app.core.config.monitoring import MonitoringSettings
{% if cookiecutter.use_redis %}
from app.core.config.redis import RedisSettings
{% endif %}


@dataclass(frozen=True)
class Settings:
    """All groups of settings, read from the environment and ``.env`` when it is made."""

    app: AppSettings = field(default_factory=AppSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
{% if cookiecutter.use_redis %}
    redis: RedisSettings = field(default_factory=RedisSettings)
{% endif %}
{% if cookiecutter.use_celery %}
    celery: CelerySettings = field(default_factory=CelerySettings)
{% endif %}
{% if cookiecutter.use_backup %}
    backup: BackupSettings = field(default_factory=BackupSettings)
{% endif %}
    monitoring: MonitoringSettings = field(default_factory=MonitoringSettings)


def load_settings() -> Settings:
    """Read the settings. A bad or missing value ends the process with a line that names it."""
    try:
        return Settings()
    except ValidationError as error:
        # The values stay out of it: they may be secrets.
        lines = [
            ": ".join([*map(str, e["loc"]), e["msg"].removeprefix("Value error, ")])
            for e in error.errors()
        ]
        raise SystemExit("\n".join(lines)) from None


settings = load_settings()
