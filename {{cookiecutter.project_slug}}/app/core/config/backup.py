"""Backup settings. docs/backups.md says what each is for."""

from pathlib import Path

from pydantic import Field, field_validator

from app.core.config.base import CommaSeparated, SettingsGroup


class BackupSettings(SettingsGroup):
    """Where backups go, how long they are kept, and where copies of them go."""

    BACKUP_DIR: Path = Path("./backups/database")
    BACKUP_RETENTION_DAYS: int = Field(default=30, ge=1, le=36_500)
    # So many of the newest backups stay, however old they are.
    BACKUP_KEEP_AT_LEAST: int = Field(default=3, ge=1)
{% if cookiecutter.database != "sqlite" %}
    # Another user for backups and restores, and another server on which to verify.
    BACKUP_DATABASE_URL: str | None = Field(default=None, repr=False)
    BACKUP_VERIFY_URL: str | None = Field(default=None, repr=False)
{% endif %}
    BACKUP_COPY_URL: str | None = Field(default=None, pattern="^(s3|gs|az|file)://")
    # Public keys, separated by commas, and the file of a private key.
    BACKUP_AGE_RECIPIENTS: CommaSeparated = ()
    BACKUP_AGE_IDENTITY_FILE: Path | None = None
{% if cookiecutter.use_celery %}
    # Seconds before a failed backup task is tried again; doubled each of three times.
    BACKUP_RETRY_SECONDS: int = Field(default=20, ge=0)
{% endif %}

    @field_validator("BACKUP_AGE_RECIPIENTS")
    @classmethod
    def _must_be_public(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(key.startswith(("age1", "ssh-")) for key in value):
            raise ValueError("must be public keys: age1… or ssh-…")
        return value

    @field_validator("BACKUP_DIR", "BACKUP_COPY_URL", "BACKUP_AGE_IDENTITY_FILE", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None
