"""Retention, the list of backups, and the age of the last good one."""

from contextlib import suppress
from datetime import datetime
from typing import Any

from app.backup import folder
from app.backup import {{ cookiecutter.database }} as engine
from app.backup.config import BackupConfig
from app.backup.copy import list_copies, prune_copies
from app.backup.errors import BackupError
from app.backup.folder import Manifest


def list_backups(config: BackupConfig) -> list[dict[str, Any]]:
    """Return this database's backups, the newest first, local ones and off-site copies.

    ``problem`` is None for a good one, ``places`` are "local" and "copy".
    """
    good, problems = folder.scan(config)
    found: dict[str, dict[str, Any]] = {
        name: {"file": name, "path": str(config.directory / name), "problem": problem}
        for name, problem in problems.items()
    }
    found |= {one.file: one.to_dict(config.directory) for one in good}
    for backup in found.values():
        backup["places"] = ["local"]
    for copy in list_copies(config):
        entry = {**copy.to_dict(config.directory), "places": []}
        found.setdefault(copy.file, entry)["places"].append("copy")
    return sorted(found.values(), key=lambda one: one.get("sequence", 0), reverse=True)


def prune_backups(config: BackupConfig, retention_days: int, wait: float = 0.0) -> list[str]:
    """Delete this database's backups older than ``retention_days``, off-site copies too.

    The newest ``keep_at_least`` good backups stay, whatever the clock says, and so does the
    newest one whose content passes its check. Returns the names of the deleted files and copies.
    """
    with engine.locked(config.url, wait):
        server = engine.server_id(config.url)
        deleted = prune_locked(config, server, retention_days)
        copies = prune_copies(config, server, retention_days)
        return [*deleted, *(name for name in copies if name not in deleted)]


def prune_locked(config: BackupConfig, server: str, retention_days: int) -> list[str]:
    """Do what ``prune_backups`` does with local files, for a caller that holds the lock."""
    good = folder.good_backups(config, server)
    old = folder.expired(good, config, retention_days)
    sound = next((one for one in good if _is_sound(config, one)), None) if old else None
    if sound is None:
        return []
    deleted = [one.file for one in old if one.sequence < sound.sequence]
    with folder.storage_errors(config):
        for name in deleted:
            (config.directory / name).unlink(missing_ok=True)
            folder.manifest_path(config.directory / name).unlink(missing_ok=True)
    return deleted


def backup_status(config: BackupConfig) -> dict[str, Any]:
    """Return the ages, in seconds, of the last good backup, verification and off-site copy.

    An age is None if there is none. Reads manifests only and never raises: cheap enough for a
    health check and for metrics.
    """
    good = folder.good_backups(config)
    return {
        "last_backup": good[0].file if good else None,
        "last_backup_age": _age([one.created_at for one in good]),
        "last_verified_age": _age([one.verified_at for one in good]),
        "last_copy_age": _age([one.created_at for one in good if one.copied_at]),
        "backups": len(good),
    }


def _age(moments: list[datetime | None]) -> float | None:
    """Return the seconds since the first moment that is known."""
    known = [moment for moment in moments if moment]
    return max(0.0, round((folder.now() - known[0]).total_seconds(), 1)) if known else None


def _is_sound(config: BackupConfig, manifest: Manifest) -> bool:
    with suppress(BackupError, OSError):
        folder.check_content(config.directory / manifest.file, manifest)
        return True
    return False
