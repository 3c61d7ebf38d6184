"""Metrics of backups."""

{% if not cookiecutter.use_celery %}
from math import inf

{% endif %}
from prometheus_client.core import Metric

from app.backup import backup_status
from app.backup.settings import backup_config
from app.core.metrics import gauge
{% if cookiecutter.use_celery %}
from app.jobs.metrics import schedule_age
{% endif %}


def read_backups() -> list[Metric]:
    """Return the ages of the last backup, verification and off-site copy.

{% if cookiecutter.use_celery %}
    Before the first one, it is the age of the schedule: a new project is not overdue.
{% else %}
    The age of what does not exist is infinite.
{% endif %}
    Without ``BACKUP_COPY_URL`` there are no copies.
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
        gauge(
            f"{name}_age_seconds",
            f"Time since {what}.",
            [],
            [((), {{ 'schedule_age("backup-database-daily")' if cookiecutter.use_celery else "inf" }} if age is None else age)],
        )
        for name, what, age in ages
    ]
