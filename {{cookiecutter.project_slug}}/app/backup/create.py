"""Making a backup."""

import hashlib
import os
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from app.backup import store, tools
from app.backup.engines import engine_for
from app.backup.engines.base import Facts, Snapshot
from app.backup.errors import DatabaseError, StorageError
from app.backup.retention import prune_locked
from app.backup.store import Backup, BackupConfig, Manifest
from app.backup.stream import Meter, Progress, Stream, pack


def create_backup(
    config: BackupConfig,
    *,
    retention_days: int | None = None,
    run_id: str | None = None,
    wait: float = 0.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a backup, check it, and return its manifest with `path` and `pruned` (file names).

    With `retention_days`, backups older than that are deleted afterwards. A second call with
    the same `run_id` returns the first one's backup instead of making another. `wait` is for
    how many seconds to wait if another backup or restore is running.

    Raises BusyError, ToolError, DatabaseError, StorageError or InvalidBackupError.
    """
    with store.locked(config, wait):
        backup = _of_run(config, run_id) or _create(config, run_id, progress)
        pruned = [] if retention_days is None else prune_locked(config, retention_days)
        return {**backup.to_dict(), "pruned": pruned}


def _of_run(config: BackupConfig, run_id: str | None) -> Backup | None:
    for backup in store.good(config):
        if run_id and backup.manifest and backup.manifest.run_id == run_id:
            return backup
    return None


def _create(config: BackupConfig, run_id: str | None, progress: Progress | None) -> Backup:
    engine = engine_for(config.url)
    moment, start = store.now(), time.monotonic()
    partial = store.partial_path(config)
    with store.storage_errors(config):
        store.remove_leftovers(config)
        try:
            with engine.snapshot(config.url) as snapshot:
                stream = _dump(snapshot, partial, progress)
                facts = snapshot.facts()
            _check(partial, stream, snapshot, engine.END, progress)
            manifest = _manifest(config, moment, stream, facts, snapshot, run_id, start)
            return _publish(config, partial, manifest, moment)
        finally:
            partial.unlink(missing_ok=True)


def _dump(snapshot: Snapshot, partial: Path, progress: Progress | None) -> Stream:
    meter = Meter(progress, "dump", snapshot.size)
    with (
        store.private_file(partial) as fd,
        open(fd, "wb", closefd=False) as target,
        tools.running(snapshot.command) as process,
    ):
        stream = pack(tools.output(process), target, snapshot.feed, meter)
        target.flush()
        os.fsync(fd)
    return stream


def _check(
    partial: Path, stream: Stream, snapshot: Snapshot, end: bytes, progress: Progress | None
) -> None:
    """See that the dump is whole, and read the file again, before it may be called a backup."""
    if end not in stream.tail or snapshot.size not in (None, stream.dump_size):
        raise DatabaseError(f"the dump ended early, after {stream.dump_size} bytes: try again")
    if progress is not None:
        progress("check", 0, stream.size)
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != stream.sha256:
        raise StorageError(f"{partial.parent} gave back other bytes than were written: check it")


def _manifest(
    config: BackupConfig,
    moment: datetime,
    stream: Stream,
    facts: Facts,
    snapshot: Snapshot,
    run_id: str | None,
    start: float,
) -> Manifest:
    engine = engine_for(config.url)
    known = [backup.manifest.sequence for backup in store.scan(config) if backup.manifest]
    return Manifest(
        file="",
        database=engine.database_name(config.url),
        engine=engine.__name__.rpartition(".")[2],
        created_at=moment.isoformat(),
        sequence=max(known, default=0) + 1,
        sha256=stream.sha256,
        size=stream.size,
        dump_size=stream.dump_size,
        seconds=round(time.monotonic() - start, 3),
        versions=dict(snapshot.versions),
        revision=facts.revision,
        tables=facts.tables,
        run_id=run_id,
    )


def _publish(config: BackupConfig, partial: Path, manifest: Manifest, moment: datetime) -> Backup:
    """Give the backup its name. The manifest is first: with the name, all is there."""
    path = store.free_path(config, moment)
    manifest = Manifest(**{**asdict(manifest), "file": path.name})
    store.write_manifest(path, manifest)
    partial.rename(path)
    store.sync_folder(path.parent)
    return Backup(path, manifest)
