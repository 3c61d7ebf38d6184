"""Which backups may go, and how old the last good one is."""

from datetime import datetime, timedelta
from typing import Any

from app.backup import store
from app.backup.errors import BackupError, InvalidBackupError
from app.backup.store import Backup, BackupConfig
from app.backup.stream import Meter, unpack


def list_backups(config: BackupConfig) -> list[dict[str, Any]]:
    """Return this database's backups, the newest first; `problem` is None for a good one."""
    return [backup.to_dict() for backup in store.scan(config)]


def prune_backups(config: BackupConfig, retention_days: int, wait: float = 0.0) -> list[str]:
    """Delete this database's backups older than `retention_days`; return their file names.

    The newest backup whose content is sound is never deleted, nor any newer one.
    """
    with store.locked(config, wait):
        return prune_locked(config, retention_days)


def prune_locked(config: BackupConfig, retention_days: int) -> list[str]:
    """Do what `prune_backups` does, for a caller that holds the lock."""
    if retention_days < 1:
        raise BackupError("retention_days must be 1 or more")
    limit = store.now() - timedelta(days=retention_days)
    backups = store.scan(config)
    old = [backup for backup in backups if _created(backup) < limit]
    if not old:
        return []
    # By sequence, not by clock: a clock that was wrong once cannot make this one look old.
    keep = next((backup for backup in backups if _sound(backup)), None)
    if keep is None:
        return []
    protected = backups[: backups.index(keep) + 1]
    deleted = [backup for backup in old if backup not in protected]
    with store.storage_errors(config):
        for backup in deleted:
            backup.path.unlink(missing_ok=True)
            store.manifest_path(backup.path).unlink(missing_ok=True)
    return [backup.path.name for backup in deleted]


def backup_status(config: BackupConfig) -> dict[str, Any]:
    """Return the newest good and the newest verified backup, with ages in seconds, or None.

    Reads manifests only: cheap enough for a health check or for metrics.
    """
    backups = [backup.manifest for backup in store.good(config) if backup.manifest]
    verified = [manifest.verified_at for manifest in backups if manifest.verified_at]
    newest = backups[0] if backups else None
    return {
        "last_backup": newest and newest.file,
        "last_backup_age": newest and _age(newest.created_at),
        "last_verified_age": _age(max(verified)) if verified else None,
        "backups": len(backups),
    }


def _age(moment: str) -> float:
    return max(0.0, round((store.now() - datetime.fromisoformat(moment)).total_seconds(), 1))


def _created(backup: Backup) -> datetime:
    """Return when a backup was made; one without a manifest is never old enough to go."""
    if backup.manifest is None:
        return store.now()
    return datetime.fromisoformat(backup.manifest.created_at)


def _sound(backup: Backup) -> bool:
    if backup.problem or backup.manifest is None:
        return False
    try:
        return unpack(backup.path, None, Meter(None, "")).sha256 == backup.manifest.sha256
    except (InvalidBackupError, OSError):
        return False
