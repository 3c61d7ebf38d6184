"""Where backups go and how long they are kept."""

from pathlib import Path

from pydantic import Field

from app.core.config.base import SettingsGroup


class BackupSettings(SettingsGroup):
    """The folder and the retention."""

    BACKUP_DIR: Path = Path("./backups/database")
    BACKUP_RETENTION_DAYS: int = Field(default=30, ge=1)
{% if cookiecutter.use_celery %}
    # Seconds before a failed backup task is tried again; doubled each of three times.
    BACKUP_RETRY_SECONDS: int = Field(default=20, ge=0)
{% endif %}
