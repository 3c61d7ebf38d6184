"""The nightly backup, and the proof that it restores. The work is in ``app/backup/``."""

from typing import Any

from celery import Task

from app.backup import BackupConfig, BackupError, Progress, create_backup, verify_backup
from app.core.celery import celery_app
from app.core.config.settings import settings

# Seconds. A backup may take hours.
SOFT_TIME_LIMIT = 4 * 60 * 60
TIME_LIMIT = SOFT_TIME_LIMIT + 60


@celery_app.task(bind=True, max_retries=3, soft_time_limit=SOFT_TIME_LIMIT, time_limit=TIME_LIMIT)
def backup_database_task(self: Task[..., Any], retention_days: int = 30) -> dict[str, Any]:
    """Back the database up, then delete backups older than ``retention_days``.

    Delivered twice, it makes one backup. What may pass by itself (the server away, the disk full) is
    tried again 3 times; then the task fails with the words of the tool.
    """
    try:
        return create_backup(
            _config(),
            retention_days=retention_days,
            run_id=self.request.id,
            progress=_progress(self),
        )
    except BackupError as error:
        raise _again(self, error) from None


@celery_app.task(bind=True, max_retries=3, soft_time_limit=SOFT_TIME_LIMIT, time_limit=TIME_LIMIT)
def verify_backup_task(self: Task[..., Any]) -> dict[str, Any]:
    """Restore the newest backup beside the live database, compare it, and remove it again."""
    try:
        return verify_backup(_config(), progress=_progress(self))
    except BackupError as error:
        raise _again(self, error) from None


def _config() -> BackupConfig:
    return BackupConfig(settings.database.DATABASE_URL, settings.backup.BACKUP_DIR)


def _again(task: Task[..., Any], error: BackupError) -> Exception:
    """Return the retry to raise, or the error itself when trying again is of no use."""
    if not error.retryable:
        return error
    delay = settings.backup.BACKUP_RETRY_SECONDS * 2**task.request.retries
    return task.retry(exc=error, countdown=delay, throw=False)


def _progress(task: Task[..., Any]) -> Progress:
    """Return a callback that shows phase and bytes in the task's state."""

    def show(phase: str, done: int, total: int | None) -> None:
        if task.request.id:  # none when the task is called as a function
            meta = {"phase": phase, "bytes": done, "total": total}
            task.update_state(state="PROGRESS", meta=meta)

    return show
