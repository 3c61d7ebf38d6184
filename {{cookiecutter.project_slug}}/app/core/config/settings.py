"""The settings: environment variables, and in development the file ``.env``.

Fields are named after their variables: ``settings.{{ "celery.CELERY_BROKER_URL" if cookiecutter.use_celery else "app.LOG_LEVEL" }}``.
https://docs.pydantic.dev/latest/concepts/pydantic_settings/
"""

import logging
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
{% if cookiecutter.use_celery %}
from zoneinfo import ZoneInfo
{% endif %}

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

PROJECT_ROOT = Path(__file__).resolve().parents[3]
ENV_FILE = PROJECT_ROOT / ".env"
# Names in .env that other programs read.
OTHERS = ("AWS_", "AZURE_", {{ '"COMPOSE_", ' if cookiecutter.use_docker }}"GOOGLE_")


def split_commas(value: Any) -> Any:
    """Return the parts of a comma-separated string."""
    return [part.strip() for part in value.split(",") if part.strip()] if value else []


{% if cookiecutter.use_backup %}
CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(split_commas)]
{% endif %}
# As browsers send it: without a path, in lower case.
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[a-z0-9.:\[\]-]+)$")]
RateLimit = Annotated[str, Field(pattern=r"^[1-9]\d*/(second|minute|hour|day)$")]
URL_HINT = "must be like {{ {"sqlite": "sqlite:///file.db", "postgresql": "postgresql+psycopg://user:password@host:5432/name", "mysql": "mysql+pymysql://user:password@host:3306/name"}[cookiecutter.database] }}"
{% if cookiecutter.use_redis %}
RedisUrl = Annotated[str, Field(pattern=r"^(rediss?|unix)://", repr=False)]
{% endif %}
{% if cookiecutter.use_celery %}
CELERY_URL = r"^(redis://[^?]+$|rediss://.*ssl_cert_reqs=|redis\+socket://|sentinel://)"
CeleryUrl = Annotated[str, Field(pattern=CELERY_URL, repr=False)]
{% endif %}


class SettingsGroup(BaseSettings):
    """Variables of the process override the ``.env`` file."""

    # Errors hide the input: values may be secrets.
    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )


class AppSettings(SettingsGroup):
    """The API."""

    ENVIRONMENT: Literal["development", "production"] = "development"
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # Signs access tokens: a new key ends them, but not the logins. It has no default.
    SECRET_KEY: str = Field(min_length=32, repr=False)
    ACCESS_TOKEN_MINUTES: int = Field(default=15, ge=1)
    REFRESH_TOKEN_DAYS: int = Field(default=14, ge=1)
    LOGIN_RATE_LIMIT: RateLimit = "10/minute"
    LOGIN_ADDRESS_RATE_LIMIT: RateLimit = "100/minute"
    MAX_BODY_SIZE: int = Field(default=1024 * 1024, ge=1)
    CORS_ORIGINS: Annotated[list[Origin], NoDecode, BeforeValidator(split_commas)] = []
    SENTRY_DSN: str = Field(default="", repr=False)
{% if cookiecutter.use_monitoring %}
    METRICS_TOKEN: str = Field(default="", repr=False)
{% endif %}


class DatabaseSettings(SettingsGroup):
    """The database."""

    DATABASE_URL: str = Field(repr=False)
    # Seconds that one statement may take. Migrations have no limit.
    DATABASE_TIMEOUT: int = Field(default=30, ge=1)
    DATABASE_POOL_SIZE: int = Field(default=15, ge=1)

    @field_validator("DATABASE_URL")
    @classmethod
    def _use_driver(cls, value: str) -> str:
        try:
            url = make_url(value)
        except (ArgumentError, ValueError):
            raise ValueError(URL_HINT) from None
        if url.get_backend_name() not in {{ {"sqlite": '("sqlite",)', "postgresql": '("postgres", "postgresql")', "mysql": '("mysql", "mariadb")'}[cookiecutter.database] }}{{ ' or url.database in (None, "", ":memory:")' if cookiecutter.database == "sqlite" }}:
            raise ValueError(URL_HINT)
        return url.set(drivername="{{ {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}[cookiecutter.database] }}").render_as_string(hide_password=False)
{% if cookiecutter.use_redis %}


class RedisSettings(SettingsGroup):
    """The application's own Redis database."""

    REDIS_URL: RedisUrl = "redis://localhost:6379/0"
    # Every key starts with it, so that projects can share a Redis server.
    REDIS_KEY_PREFIX: str = "{{ cookiecutter.project_slug }}:"
{% endif %}
{% if cookiecutter.use_celery %}


class CelerySettings(SettingsGroup):
    """Celery and jobs. Times are in seconds."""

    CELERY_BROKER_URL: CeleryUrl = "redis://localhost:6379/1"
    CELERY_RESULT_BACKEND: CeleryUrl = "redis://localhost:6379/2"
    CELERY_TASK_SERIALIZER: Literal["json"] = "json"
    CELERY_RESULT_SERIALIZER: Literal["json"] = "json"
    CELERY_TIMEZONE: ZoneInfo = ZoneInfo("UTC")
    CELERY_ENABLE_UTC: bool = True
    CELERY_WORKER_CONCURRENCY: int = Field(default=4, ge=1)
    CELERY_TASK_SOFT_TIME_LIMIT: int = Field(default=5 * 60, ge=1)
    CELERY_TASK_TIME_LIMIT: int = Field(default=6 * 60, ge=1)
    CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT: float = Field(default=10, ge=0)
    # Touched by a healthy worker or beat, for health checks that look at the age of a file.
    CELERY_HEARTBEAT_FILE: Path | None = None
    # A job whose worker was lost this often fails.
    JOB_MAX_ATTEMPTS: int = Field(default=5, ge=1)
    JOB_RETENTION_DAYS: int = Field(default=30, ge=1)
    # Where finished runs of the schedule report themselves: https://healthchecks.io/docs/http_api/
    SCHEDULE_PING_URL: str = Field(default="", pattern="^(https?://.*)?$", repr=False)
{% endif %}
{% if cookiecutter.use_backup %}


class BackupSettings(SettingsGroup):
    """Backups. docs/backups.md explains them."""

    BACKUP_DIR: Path = Path("./backups/database")
    BACKUP_RETENTION_DAYS: int = Field(default=30, ge=1, le=36_500)
    BACKUP_KEEP_AT_LEAST: int = Field(default=3, ge=1)
{% if cookiecutter.database != "sqlite" %}
    # Another user for backups and restores of the same database.
    BACKUP_DATABASE_URL: str | None = Field(default=None, repr=False)
{% endif %}
    BACKUP_COPY_URL: str | None = Field(default=None, pattern="^(s3|gs|az|file)://", repr=False)
    BACKUP_AGE_RECIPIENTS: CommaSeparated = []
    BACKUP_AGE_IDENTITY_FILE: Path | None = None
{% endif %}
{% set optional = (["redis"] if cookiecutter.use_redis else []) + (["celery"] if cookiecutter.use_celery else []) + (["backup"] if cookiecutter.use_backup else []) %}


class Settings(BaseModel):
    """All groups of settings."""

{% for group in ["app", "database"] + optional %}
    {{ group }}: {{ group | capitalize }}Settings = Field(default_factory={{ group | capitalize }}Settings)
{% endfor %}


def warn_of_unknown_names(path: Path) -> None:
    """Log a warning for each name in ``.env`` that is neither a setting nor in ``.env.example``."""
    known = {name for group in SettingsGroup.__subclasses__() for name in group.model_fields}
    if (example := path.with_name(".env.example")).exists():
        known |= set(re.findall(r"^(?:# )?([A-Z]\w*)=", example.read_text(), re.MULTILINE))
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        name = re.match(r"\s*(?:export\s+)?(\w+)\s*=", line)
        if name and name[1].upper() not in known and not name[1].startswith(OTHERS):
            close = [f", did you mean {one}?" for one in get_close_matches(name[1], known, n=1)]
            text = ".env, line %d: %s is not a setting (removed or misspelt)%s"
            logging.getLogger(__name__).warning(text, number, name[1], "".join(close))


try:
    settings = Settings()
except ValidationError as error:
    lines = [f"{detail['loc'][0]}: {detail['msg']}" for detail in error.errors()]
    if "SECRET_KEY" in str(error):
        lines.append("Make a SECRET_KEY with: openssl rand -hex 32")
    if not ENV_FILE.exists():
        lines.append("There is no file .env: copy .env.example and fill in what is empty")
    raise SystemExit("\n".join(lines)) from None
warn_of_unknown_names(ENV_FILE)
