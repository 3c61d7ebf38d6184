"""The nightly backup and its verification. The implementation is in ``app/backup/``."""

from typing import Any

from celery import Task

from app.backup import BackupError, Progress, create_backup, verify_backup
from app.backup.errors import InvalidBackupError, RefusedError, ToolError
from app.backup.settings import backup_config
from app.core.celery import celery_app
from app.core.config.settings import settings

# Seconds. A backup may take hours.
SOFT_TIME_LIMIT = 4 * 60 * 60
OPTIONS: dict[str, Any] = {
    "soft_time_limit": SOFT_TIME_LIMIT,
    "time_limit": SOFT_TIME_LIMIT + 60,
    "autoretry_for": (BackupError,),
    # A retry cannot help with these.
    "dont_autoretry_for": (InvalidBackupError, RefusedError, ToolError),
    "max_retries": 3,
    "retry_backoff": settings.backup.BACKUP_RETRY_SECONDS,
    "retry_jitter": False,
    "default_retry_delay": settings.backup.BACKUP_RETRY_SECONDS,
}


@celery_app.task(bind=True, **OPTIONS)
def backup_database_task(self: Task[..., Any], retention_days: int = 30) -> dict[str, Any]:
    """Back the database up, then delete backups older than ``retention_days``.

    A message that is delivered twice makes one backup. After its retries, the task fails with the
    dump program's error message.
    """
    return create_backup(
        backup_config(),
        retention_days=retention_days,
        run_id=self.request.id,
        progress=_progress(self),
    )


@celery_app.task(bind=True, **OPTIONS)
def verify_backup_task(self: Task[..., Any]) -> dict[str, Any]:
    """Restore the newest backup beside the live database, compare it, and remove it again."""
    return verify_backup(backup_config(), progress=_progress(self))


def _progress(task: Task[..., Any]) -> Progress:
    """Return a callback that shows phase and bytes in the task's state."""

    def show(phase: str, done: int) -> None:
        if task.request.id:  # none when the task is called as a function
            task.update_state(state="PROGRESS", meta={"phase": phase, "bytes": done})

    return show
