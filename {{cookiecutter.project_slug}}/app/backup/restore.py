"""Proving that a backup restores, and putting it in the place of the live database."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from app.backup import store
from app.backup.engines import engine_for
from app.backup.engines.base import Facts
from app.backup.errors import BackupError, InvalidBackupError, RefusedError
from app.backup.store import BackupConfig, Manifest
from app.backup.stream import Meter, Progress, unpack


def verify_backup(
    config: BackupConfig,
    path: Path | None = None,
    *,
    foreign: bool = False,
    wait: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Restore a backup (the newest good one by default) beside the live database, and check it.

    Checks the checksum, then rows per table and the Alembic revision against the manifest, and
    removes what it restored. Returns the manifest, with `verified_at` set.

    Raises BusyError, ToolError, DatabaseError or InvalidBackupError.
    """
    with store.locked(config, wait):
        path = path or store.newest(config).path
        with _restored(config, path, foreign, progress):
            pass
        # A backup on a read-only medium has been verified as well.
        with suppress(OSError):
            store.mark_verified(path)
        return store.backup_at(path).to_dict()


def restore_backup(
    config: BackupConfig,
    path: Path | None = None,
    *,
    confirm: Callable[[dict[str, Any]], bool] | None = None,
    foreign: bool = False,
    wait: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Restore a backup (the newest good one by default) and put it in the live one's place.

    Does what `verify_backup` does; then, if `confirm` (called with the manifest and `kept_as`)
    agrees, swaps. Returns the manifest, `kept_as` (what the database that was live is called
    now, or None if there was none) and `warnings`.

    Raises as `verify_backup`, and RefusedError. Until the swap the live database is untouched.
    """
    engine = engine_for(config.url)
    with store.locked(config, wait):
        path = path or store.newest(config).path
        old = _free_name(config, "old")
        with _restored(config, path, foreign, progress) as (manifest, side):
            summary = {**store.Backup(path, manifest).to_dict(), "kept_as": old}
            if confirm is not None and not confirm(summary):
                raise RefusedError("not confirmed: the live database was not touched")
            if progress is not None:
                progress("swap", 0, None)
            warnings = engine.swap(config.url, side, old)
        kept = old in engine.others(config.url, "old")
        return {**summary, "kept_as": old if kept else None, "warnings": warnings}


def old_databases(config: BackupConfig) -> list[str]:
    """Return what earlier restores kept, the oldest first."""
    found: list[str] = engine_for(config.url).others(config.url, "old")
    return found


def drop_old(config: BackupConfig, wait: float = 0.0) -> list[str]:
    """Remove for good what earlier restores kept; return the names."""
    with store.locked(config, wait):
        names = old_databases(config)
        for name in names:
            engine_for(config.url).drop(config.url, name)
        return names


@contextmanager
def _restored(
    config: BackupConfig, path: Path, foreign: bool, progress: Progress | None
) -> Iterator[tuple[Manifest, str]]:
    """Restore into a side database and check it there; remove it at the end."""
    engine = engine_for(config.url)
    manifest = _check_file(config, path, foreign, progress)
    _remove_leftovers(config)
    side = _free_name(config, "restore")
    try:
        with engine.side(config.url, side) as write:
            unpack(path, write, Meter(progress, "restore", manifest.size))
        if progress is not None:
            progress("compare", 0, None)
        _compare(path, manifest, engine.facts(config.url, side))
        yield manifest, side
    except BaseException:
        # What went wrong first is what counts; the next run removes what is left.
        with suppress(BackupError):
            engine.drop(config.url, side)
        raise
    engine.drop(config.url, side)


def _free_name(config: BackupConfig, kind: str) -> str:
    """Return a name for a side or kept database; if one of this second exists, the next free one."""
    engine = engine_for(config.url)
    taken = engine.others(config.url, kind)
    name = partial(engine.side_name, config.url, kind)
    found: str = name(store.free_stamp(store.now(), lambda stamp: name(stamp) in taken))
    return found


def _remove_leftovers(config: BackupConfig) -> None:
    """Remove side databases of killed runs, if nobody uses them any more."""
    engine = engine_for(config.url)
    for name in engine.others(config.url, "restore"):
        with suppress(BackupError):
            engine.drop(config.url, name)


def _check_file(
    config: BackupConfig, path: Path, foreign: bool, progress: Progress | None
) -> Manifest:
    """Refuse a file that is damaged or not of this database, before anything is touched."""
    if not path.is_file():
        raise InvalidBackupError(f"there is no file {path}")
    manifest = store.read_manifest(path)
    engine = engine_for(config.url)
    ours = engine.__name__.rpartition(".")[2], engine.database_name(config.url)
    if manifest.engine != ours[0]:
        raise InvalidBackupError(f"{path} is a backup of {manifest.engine}, not of {ours[0]}")
    if manifest.database != ours[1] and not foreign:
        raise InvalidBackupError(
            f"{path} is a backup of {manifest.database}, not of {ours[1]}: add --foreign if that"
            " is what you want"
        )
    stream = unpack(path, None, Meter(progress, "check", manifest.size))
    if (stream.sha256, stream.dump_size) != (manifest.sha256, manifest.dump_size):
        raise InvalidBackupError(f"{path} has another checksum than its manifest: use another one")
    return manifest


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
