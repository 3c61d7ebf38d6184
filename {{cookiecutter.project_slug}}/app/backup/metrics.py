"""Metrics of backups."""

from math import inf

from prometheus_client.core import Metric

from app.backup import backup_status
from app.backup.settings import backup_config
from app.core.metrics import gauge


def read_backups() -> list[Metric]:
    """Return the ages of the last backup, verification and off-site copy.

    The age of what does not exist is infinite. Without ``BACKUP_COPY_URL`` there are no copies.
    """
    config = backup_config()
    status = backup_status(config)
    ages = [
        ("backup", "the last good backup", status["last_backup_age"]),
        ("backup_verification", "the last verification", status["last_verified_age"]),
    ]
    if config.copy_url:
        ages.append(("backup_copy", "the last off-site copy", status["last_copy_age"]))
    return [
        gauge(f"{name}_age_seconds", f"Time since {what}.", [], [((), inf if age is None else age)])
        for name, what, age in ages
    ]
