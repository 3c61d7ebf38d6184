"""Metrics of backups."""

from math import inf

from prometheus_client.core import Metric

from app.backup import BackupConfig, backup_status
from app.core.config.settings import settings
from app.core.metrics import gauge


def read_backups() -> list[Metric]:
    """Return the ages of the last backup and so on. The age of what does not exist is infinite."""
    status = backup_status(BackupConfig(settings.database.DATABASE_URL, settings.backup.BACKUP_DIR))
    ages = [
        ("backup", "the last good backup", status["last_backup_age"]),
        ("backup_verification", "the last verification", status["last_verified_age"]),
    ]
    return [
        gauge(f"{name}_age_seconds", f"Time since {what}.", [], [((), inf if age is None else age)])
        for name, what, age in ages
    ]
