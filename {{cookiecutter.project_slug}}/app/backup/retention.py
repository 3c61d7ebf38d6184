"""Which backups may go, and how old the last good one is."""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from app.backup import manifest as folder
from app.backup import {{ cookiecutter.database }} as engine
from app.backup.check import read_through
from app.backup.config import BackupConfig
from app.backup.copy import list_copies, prune_copies
from app.backup.errors import BackupError
from app.backup.manifest import Backup, Manifest


def list_backups(config: BackupConfig) -> list[dict[str, Any]]:
    """Return this database's backups, the newest first, local ones and off-site copies.

    ``problem`` is None for a good one, ``places`` are "local" and "copy".
    """
    found = {one.path.name: {**one.to_dict(), "places": ["local"]} for one in folder.scan(config)}
    for manifest in list_copies(config) if config.copy_url else []:
        copy = Backup(config.directory / manifest.file, manifest).to_dict()
        found.setdefault(manifest.file, {**copy, "places": []})["places"].append("copy")
    return sorted(found.values(), key=lambda one: one.get("sequence", 0), reverse=True)


def prune_backups(config: BackupConfig, retention_days: int, wait: float = 0.0) -> list[str]:
    """Delete this database's backups older than ``retention_days``, off-site copies too.

    The newest ``keep_at_least`` good backups stay, whatever the clock says, and so does the
    newest one whose content is sound. Returns the names of the deleted files and copies.
    """
    with engine.locked(config.url, wait):
        server = engine.server_id(config.url)
        deleted = prune_locked(config, server, retention_days)
        copies = prune_copies(config, server, retention_days) if config.copy_url else []
        return [*deleted, *(name for name in copies if name not in deleted)]


def prune_locked(config: BackupConfig, server: str, retention_days: int) -> list[str]:
    """Do what ``prune_backups`` does with local files, for a caller that holds the lock."""
    # By sequence, not by clock: a clock that was wrong once cannot make this one look old.
    good = folder.of_server(folder.scan(config), server)
    old = [one for one in good[config.keep_at_least :] if is_old(one.manifest, retention_days)]
    sound = next((one for one in good if _sound(one)), None) if old else None
    if sound is None:
        return []
    deleted = [one for one in old if good.index(one) > good.index(sound)]
    with folder.storage_errors(config):
        for backup in deleted:
            backup.path.unlink(missing_ok=True)
            folder.manifest_path(backup.path).unlink(missing_ok=True)
    return [backup.path.name for backup in deleted]


def is_old(manifest: Manifest | None, retention_days: int) -> bool:
    """Return whether a backup is older than that many days."""
    if retention_days < 1:
        raise BackupError("retention_days must be 1 or more")
    limit = folder.now() - timedelta(days=retention_days)
    return manifest is not None and manifest.created_at < limit


def backup_status(config: BackupConfig) -> dict[str, Any]:
    """Return the ages, in seconds, of the last good backup, verification and off-site copy.

    An age is None if there is none. Reads manifests only and never raises: cheap enough for a
    health check and for metrics.
    """
    good = [one.manifest for one in folder.scan(config) if one.manifest and not one.problem]
    return {
        "last_backup": good[0].file if good else None,
        "last_backup_age": _age(good[0].created_at) if good else None,
        "last_verified_age": _first_age([one.verified_at for one in good]),
        "last_copy_age": _first_age([one.created_at for one in good if one.copied_at]),
        "backups": len(good),
    }


def _first_age(moments: list[datetime | None]) -> float | None:
    known = [moment for moment in moments if moment]
    return _age(known[0]) if known else None


def _age(moment: datetime) -> float:
    return max(0.0, round((folder.now() - moment).total_seconds(), 1))


def _sound(backup: Backup) -> bool:
    with suppress(BackupError, OSError):
        found = read_through(backup.path).sha256
        return backup.manifest is not None and found == backup.manifest.sha256
    return False
