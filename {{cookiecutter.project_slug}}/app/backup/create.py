"""Making a backup."""

import time
from typing import Any

from isal import igzip_threaded

from app.backup import folder
from app.backup import {{ cookiecutter.database }} as engine
from app.backup.base import Meter, private_file
from app.backup.config import BackupConfig, Progress, no_progress
from app.backup.copy import copy_missing
from app.backup.errors import StorageError
from app.backup.folder import Manifest
from app.backup.retention import prune_locked


def create_backup(
    config: BackupConfig,
    *,
    retention_days: int | None = None,
    run_id: str | None = None,
    wait: float = 0.0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Make a backup, check it, and return its manifest with ``path`` and ``pruned`` (file names).

    With ``retention_days``, backups older than that are deleted afterwards. With a ``copy_url``,
    every good backup that is not there yet is copied. A second call with the same ``run_id``
    returns the first one's backup instead of making another. ``wait`` is the number of seconds
    to wait while another backup or restore is running.

    Raises:
        BusyError, ToolError, DatabaseError, StorageError: there is no new backup.
        CopyError: there is a new backup, but no off-site copy of it.
    """
    with engine.locked(config.url, wait):
        server = engine.server_id(config.url)
        with folder.storage_errors(config):
            folder.make_folder(config)
            folder.remove_leftovers(config, server)
            same = [one for one in folder.good_backups(config) if run_id and one.run_id == run_id]
            made = same[0] if same else _create(config, server, run_id, progress)
            pruned = []
            if retention_days is not None:
                pruned = prune_locked(config, server, retention_days)
        if config.copy_url:
            copy_missing(config, server, retention_days, progress)
        made = folder.read_backup(config.directory / made.file)
        return {**made.to_dict(config.directory), "pruned": pruned}


def _create(config: BackupConfig, server: str, run_id: str | None, progress: Progress) -> Manifest:
    moment, start = folder.now(), time.monotonic()
    partial = folder.partial_path(config, server)
    try:
        with (
            private_file(partial) as file,
            # Level 1 gives about the size of gzip's default level in a tenth of the time.
            igzip_threaded.open(file, "wb", compresslevel=1) as packed,
        ):
            target = Meter(packed, progress, "dump")
            dumped = engine.dump(config.url, target)
        sha256, dump_size = folder.read_through(partial, progress)
        if dump_size != target.done:
            raise StorageError(f"{config.directory} gave back other bytes than were written")
        known = [one.sequence for one in folder.good_backups(config)]
        manifest = Manifest(
            file=folder.new_name(config, moment),
            project=config.project,
            database=engine.database_name(config.url),
            engine=folder.ENGINE,
            server=server,
            created_at=moment,
            # The time, too, since only the off-site copies may be left.
            sequence=max(max(known, default=0) + 1, int(moment.timestamp() * 1000)),
            sha256=sha256,
            size=partial.stat().st_size,
            dump_size=dump_size,
            seconds=round(time.monotonic() - start, 3),
            versions=dumped.versions,
            revision=dumped.facts.revision,
            tables=dumped.facts.tables,
            properties=dumped.properties,
            notes=dumped.notes,
            run_id=run_id,
        )
        folder.publish(config, partial, manifest)
        return manifest
    finally:
        partial.unlink(missing_ok=True)
