"""Create, verify, restore and prune."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from isal import igzip_threaded

from app.backup import copies, database, files
from app.backup.errors import BackupError, InvalidBackupError
from app.backup.files import Manifest
from app.core.config.settings import settings


def create_backup(
    retention_days: int = settings.backup.BACKUP_RETENTION_DAYS, wait: float = 0
) -> Manifest:
    """Make a backup, check it, delete old ones, and copy it off-site."""
    with database.locked(wait):
        name, server, started = database.name(), database.server(), files.now()
        known = [one.sequence + 1 for one in files.list_backups(name, server)]
        with files.partial_file(name, server, "backup") as partial:
            # Level 1 gives about the size of gzip's default level in a tenth of the time.
            with igzip_threaded.open(partial, "wb", compresslevel=1) as packed:
                facts = database.dump(packed)
            path = Path(partial.name)
            with files.reading(path) as unpacked:
                while unpacked.read(files.CHUNK):
                    pass
            manifest = Manifest(
                file=files.new_name(name, started, database.SUFFIX),
                database=name,
                server=server,
                created_at=started,
                sequence=max([int(started.timestamp() * 1000), *known]),
                sha256=files.sha256(path),
                size=path.stat().st_size,
                **facts,
            )
            files.publish(partial, manifest)
        try:
            copies.copy_missing(files.list_backups(name, server))
            copies.prune(name, server, retention_days)
        finally:
            _prune(retention_days)
        return files.read_manifest(manifest.file)


def verify_backup(file: str | None = None, *, foreign: bool = False, wait: float = 0) -> Manifest:
    """Restore a backup (the newest by default) into a side database, compare it, and remove it."""
    with database.locked(wait):
        manifest = _find(file, foreign)
        database.drop(_restore_beside(manifest, "verify"))
        manifest.verified_at = files.now()
        files.write_manifest(manifest)
        return manifest


def restore_backup(
    file: str | None, confirm: Callable[[Manifest], bool], *, foreign: bool = False, wait: float = 0
) -> str | None:
    """Do what ``verify_backup`` does, and then replace the live database.

    Returns the name under which the database that was live is kept; None if there was none. When
    an error is raised, the live database is unchanged.
    """
    with database.locked(wait):
        manifest = _find(file, foreign)
        if manifest.server != database.server() and not foreign:
            tables = database.facts()["tables"]  # A new machine has no rows to lose.
            if any(rows for table, rows in tables.items() if "alembic_version" not in table):
                raise InvalidBackupError(f"{manifest.file} is of another server: add --foreign")
        side = _restore_beside(manifest, "restore")
        old = database.side_name("old")
        if differences := database.differences(side, manifest):
            lines = [*differences, "To finish by hand, stop the application and run:"]
            lines += database.by_hand(side, old, manifest)
            head = f"not swapped; {manifest.file} is restored and verified as {side}. Different:"
            raise BackupError("\n  ".join([head, *lines]))
        with _dropped_on_error(side):
            if not confirm(manifest):
                raise BackupError("not confirmed: the live database was not touched")
            database.swap(side, old)
        return old if old in database.sides("old") else None


def prune_backups(days: int, wait: float = 0) -> list[str]:
    """Delete backups and copies older than so many days; return their names."""
    with database.locked(wait):
        return copies.prune(database.name(), database.server(), days) + _prune(days)


def drop_old(confirm: Callable[[str], bool], wait: float = 0) -> list[str]:
    """Remove for good what restores kept or left, after a question for each; return the names."""
    with database.locked(wait):
        removed = [
            one for kind in ("old", "restore") for one in database.sides(kind) if confirm(one)
        ]
        for name in removed:
            database.drop(name)
        return removed


def _prune(days: int) -> list[str]:
    """Delete local backups that are too old, but not the newest that are good."""
    backups = files.list_backups(database.name(), database.server())
    if not (old := files.expired(backups, days)):
        return []
    good = (one for one in backups if files.sha256(one.path) == one.sha256)
    kept = list(islice(good, settings.backup.BACKUP_KEEP_AT_LEAST))
    removed = [one.path for one in old if one not in kept]
    for path in removed:
        path.unlink()
        path.with_name(f"{path.name}.json").unlink()
    return [path.name for path in removed]


def _find(file: str | None, foreign: bool) -> Manifest:
    """Return the manifest of a backup, the newest by default; download it if it is not here."""
    name, folder = database.name(), settings.backup.BACKUP_DIR
    if file is None:
        # Who can write to the store can run SQL: it is asked when there is nothing else.
        known = files.list_backups(name, database.server())
        known = known or [*files.list_backups(name), *copies.list_copies(name)]
        if not known:
            raise InvalidBackupError("there is no good backup: create one")
        file = known[0].file
    elif "/" in file and Path(file).resolve().parent != folder.resolve():
        raise InvalidBackupError(f"copy {file} and its .json file into {folder} first")
    file = Path(file).name
    if not (folder / file).exists() and settings.backup.BACKUP_COPY_URL:
        copies.download(file)
    manifest = files.read_manifest(file)
    if manifest.database != name and not foreign:
        raise InvalidBackupError(f"{file} is of the database {manifest.database}: add --foreign")
    if files.sha256(manifest.path) != manifest.sha256:
        raise InvalidBackupError(f"{file} is damaged: use another backup")
    return manifest


@contextmanager
def _dropped_on_error(side: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(BackupError):  # Report the first error; the next run removes what is left.
            database.drop(side)
        raise


def _restore_beside(manifest: Manifest, kind: str) -> str:
    """Restore into a side database, compare it with the manifest, and return its name."""
    # A verification leaves alone what a restore has left for its user.
    for name in {*database.sides("verify"), *database.sides(kind)}:
        database.drop(name)
    side = database.side_name(kind)
    with _dropped_on_error(side):
        with files.reading(manifest.path) as source:
            facts = database.load(side, source, manifest)
        expected = {"its revision": manifest.revision, **manifest.tables}
        found = {"its revision": facts["revision"], **facts["tables"]}
        for key in expected | found:
            if expected.get(key) != found.get(key):
                problem = f"{key} is {found.get(key)}, not {expected.get(key)}"
                raise InvalidBackupError(f"{manifest.file} does not match its manifest: {problem}")
    return side
