"""Verifying that a backup restores, and replacing the live database with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from isal import igzip_threaded

from app.backup import folder
from app.backup import {{ cookiecutter.database }} as engine
from app.backup.base import Facts, Meter
from app.backup.config import BackupConfig, Progress, no_progress
from app.backup.copy import fetch, list_copies
from app.backup.errors import BackupError, InvalidBackupError, RefusedError
from app.backup.folder import Manifest


def verify_backup(
    config: BackupConfig,
    path: Path | None = None,
    *,
    foreign: bool = False,
    wait: float = 0.0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Restore a backup (the newest good one by default) into a side database, and check it.

    Compares the checksum, rows per table and the Alembic revision with the manifest, and removes
    what it restored. Returns the manifest, with ``verified_at`` set.

    Raises:
        BusyError, ToolError, DatabaseError, StorageError, InvalidBackupError, CopyError
    """
    with engine.locked(config.url, wait):
        path = path or _newest(config, engine.server_id(config.url))
        path = _local(config, path, progress)
        with _restored(config, config.verify_url or config.url, path, foreign, progress):
            pass
        # A backup on a read-only medium has been verified as well.
        with suppress(OSError):
            folder.update_manifest(path, verified_at=folder.now())
        return folder.read_backup(path).to_dict(path.parent)


def restore_backup(
    config: BackupConfig,
    path: Path | None = None,
    *,
    confirm: Callable[[dict[str, Any]], bool] | None = None,
    foreign: bool = False,
    wait: float = 0.0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Restore a backup (the newest good one by default) and replace the live database with it.

    Does what ``verify_backup`` does; then, if ``confirm`` (called with the manifest and
    ``kept_as``) agrees, swaps. Returns the manifest, ``kept_as`` (what the database that was live
    is called now, or None if there was none) and ``warnings``. Until the swap the live database
    is untouched.

    Raises:
        RefusedError: not confirmed, or the backup is of another server.
        BusyError, ToolError, DatabaseError, StorageError, InvalidBackupError, CopyError
    """
    with engine.locked(config.url, wait):
        server = engine.server_id(config.url)
        path = _local(config, path or _newest(config, server), progress)
        old = _free_name(config.url, "old")
        with _restored(config, config.url, path, foreign, progress) as (manifest, side):
            if manifest.server != server and not foreign:
                _refuse_if_in_use(config, manifest)
            summary = {**manifest.to_dict(path.parent), "kept_as": old}
            if confirm is not None and not confirm(summary):
                raise RefusedError("not confirmed: the live database was not touched")
            progress("swap", 0)
            warnings = engine.swap(config.url, side, old, manifest.properties)
        kept = old in engine.side_databases(config.url, "old")
        return {
            **summary,
            "kept_as": old if kept else None,
            "warnings": [*manifest.notes, *warnings],
        }


def old_databases(config: BackupConfig) -> list[str]:
    """Return the databases that earlier restores kept, the oldest first."""
    return engine.side_databases(config.url, "old")


def drop_old(config: BackupConfig, wait: float = 0.0) -> list[str]:
    """Remove for good the databases that earlier restores kept; return their names."""
    with engine.locked(config.url, wait):
        names = old_databases(config)
        for name in names:
            engine.drop(config.url, name)
        return names


def _newest(config: BackupConfig, server: str) -> Path:
    """Return the newest good backup: of this server, else (on a new machine) of this database.

    While there is a local one, whoever can write to the store must not choose what is run here.
    """
    found = folder.good_backups(config) or list_copies(config)
    ours = [one for one in found if one.server == server] or found
    if not ours:
        where = " or at ".join(filter(None, [str(config.directory), config.copy_url]))
        raise InvalidBackupError(f"there is no good backup in {where}: create one")
    return config.directory / ours[0].file


def _local(config: BackupConfig, path: Path, progress: Progress) -> Path:
    """Return the path of a backup; download it first if only the off-site copy is left."""
    if not path.exists() and not path.is_absolute() and path.name == str(path):
        path = config.directory / path
    if not path.exists() and config.copy_url:
        return fetch(config, path.name.removesuffix(".age"), progress)
    return path


@contextmanager
def _restored(
    config: BackupConfig, url: str, path: Path, foreign: bool, progress: Progress
) -> Iterator[tuple[Manifest, str]]:
    """Restore into a side database on the server of ``url``, check it, remove it at the end."""
    manifest = _check_file(config, path, foreign, progress)
    for leftover in engine.side_databases(url, "restore"):
        with suppress(BackupError):
            engine.drop(url, leftover)
    side = _free_name(url, "restore")
    try:
        with folder.damage_errors(path), igzip_threaded.open(path, "rb") as plain:
            engine.load(url, side, Meter(plain, progress, "restore"), manifest.properties)
        progress("compare", 0)
        _compare(path, manifest, engine.facts(url, side))
        yield manifest, side
    except BaseException:
        # Report the first error; the next run removes what is left.
        with suppress(BackupError):
            engine.drop(url, side)
        raise
    engine.drop(url, side)


def _free_name(url: str, kind: str) -> str:
    """Return an unused name for a side or kept database."""
    taken = engine.side_databases(url, kind)
    return folder.free_name(lambda stamp: engine.side_name(url, kind, stamp), taken, folder.now())


def _check_file(config: BackupConfig, path: Path, foreign: bool, progress: Progress) -> Manifest:
    """Refuse a file that is damaged or not of this database, before anything is touched."""
    manifest = folder.read_backup(path)
    if manifest.engine != folder.ENGINE:
        raise InvalidBackupError(f"{path} is a backup of {manifest.engine}, not of {folder.ENGINE}")
    if not foreign and not folder.is_ours(config, manifest):
        raise InvalidBackupError(
            f"{path} is a backup of the database {manifest.database} of the project"
            f" {manifest.project}: add --foreign if that is what you want"
        )
    folder.check_content(path, manifest, progress)
    return manifest


def _refuse_if_in_use(config: BackupConfig, manifest: Manifest) -> None:
    """Refuse to replace existing data with another server's; a new machine has none."""
    found = engine.facts(config.url, None)
    rows = {name: n for name, n in found.tables.items() if not name.endswith("alembic_version")}
    if any(rows.values()):
        raise RefusedError(
            f"{manifest.file} was made on another server ({manifest.server}), and the live"
            " database holds data: add --foreign if that is what you want"
        )


def _compare(path: Path, manifest: Manifest, found: Facts) -> None:
    if found.revision != manifest.revision:
        raise InvalidBackupError(
            f"{path} restores to revision {found.revision} instead of {manifest.revision}"
        )
    for table in sorted({*found.tables, *manifest.tables}):
        rows, expected = found.tables.get(table), manifest.tables.get(table)
        if rows != expected:
            raise InvalidBackupError(
                f"{path} restores to {rows} rows in {table} instead of {expected}"
            )
