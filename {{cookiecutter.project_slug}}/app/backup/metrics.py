"""Metrics of backups."""

from collections.abc import Iterator
from math import inf

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Engine

from app.backup import database, files


def read_backups(_engine: Engine) -> Iterator[Metric]:
    """Yield the ages of the last backup, verification and off-site copy."""
    backups = files.list_backups(database.name())
    for metric, attribute in (
        ("backup_age_seconds", "created_at"),
        ("backup_verification_age_seconds", "verified_at"),
        ("backup_copy_age_seconds", "copied_at"),
    ):
        times = [time for one in backups if (time := getattr(one, attribute))]
        age = (files.now() - max(times)).total_seconds() if times else inf
        yield GaugeMetricFamily(metric, "Time since the last one.", age)
