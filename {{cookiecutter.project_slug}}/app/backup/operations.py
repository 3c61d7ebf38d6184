"""Create, verify, restore and prune."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from isal import igzip_threaded

from app.backup import copies, database, files
from app.backup.errors import BackupError, DifferentError, InvalidBackupError
from app.backup.files import Manifest
from app.core.config.settings import settings


def create_backup(retention_days: int | None = None, wait: float = 0) -> Manifest:
    """Make a backup, check it, delete old ones, and copy it off-site.

    Raises:
        BackupError: There is no new backup, or no off-site copy of it.
    """
    with database.locked(wait):
        name, server, started = database.name(), database.server(), files.now()
        known = [one.sequence + 1 for one in files.list_backups(name, server)]
        with files.partial_file(name, server, "backup") as partial:
            with igzip_threaded.open(partial, "wb", compresslevel=1) as packed:
                facts = database.dump(packed)
            path = Path(partial.name)
            manifest = Manifest(
                file=files.new_name(name, started, database.SUFFIX),
                database=name,
                server=server,
                created_at=started,
                sequence=max([int(started.timestamp() * 1000), *known]),
                sha256=files.checksum(path),
                size=path.stat().st_size,
                **facts,
            )
            files.publish(partial, manifest)
        if retention_days is not None:
            _prune(retention_days)
        copies.copy_missing(files.list_backups(name, server))
        if retention_days is not None:
            copies.prune(name, server, retention_days)
        return files.read_manifest(manifest.path)


def verify_backup(path: Path | None = None, *, foreign: bool = False, wait: float = 0) -> Manifest:
    """Restore a backup (the newest by default) into a side database, compare it, and remove it."""
    with database.locked(wait):
        manifest = _find(path, foreign)
        database.drop(_restore_beside(manifest, "verify"))
        manifest.verified_at = files.now()
        files.write_manifest(manifest)
        return manifest


def restore_backup(
    path: Path | None,
    confirm: Callable[[Manifest], bool],
    *,
    foreign: bool = False,
    wait: float = 0,
) -> str | None:
    """Do what ``verify_backup`` does, and then replace the live database.

    Returns the name under which the database that was live is kept; None if there was none.

    Raises:
        DifferentError: The swap would change more than the content: the side database is ready.
        BackupError: Not restored, or not confirmed. In any case the live database is unchanged.
    """
    with database.locked(wait):
        manifest = _find(path, foreign)
        if manifest.server != database.server() and not foreign:
            _refuse_if_in_use(manifest)
        side = _restore_beside(manifest, "restore")
        old = database.side_name("old")
        if differences := database.differences(side, manifest):
            lines = [*differences, "To finish by hand, stop the application and run:"]
            lines += database.by_hand(side, old, manifest)
            head = f"not swapped; {manifest.file} is restored and verified as {side}. Different:"
            raise DifferentError("\n  ".join([head, *lines]))
        with _dropped_on_error(side):
            if not confirm(manifest):
                raise BackupError("not confirmed: the live database was not touched")
            database.swap(side, old)
        return old if old in database.sides("old") else None


def prune_backups(days: int, wait: float = 0) -> list[str]:
    """Delete backups and copies older than so many days; return their names."""
    with database.locked(wait):
        return _prune(days) + copies.prune(database.name(), database.server(), days)


def drop_old(confirm: Callable[[str], bool], wait: float = 0) -> list[str]:
    """Remove for good what restores kept or left, after a question for each; return the names."""
    with database.locked(wait):
        names = [*database.sides("old"), *database.sides("restore")]
        removed = [name for name in names if confirm(name)]
        for name in removed:
            database.drop(name)
        return removed


def _prune(days: int) -> list[str]:
    """Delete local backups that are too old, but not the newest that pass their check."""
    backups = files.list_backups(database.name(), database.server())
    if not (old := files.expired(backups, days)):
        return []
    good = (one.file for one in backups if files.is_good(one))
    kept = set(islice(good, settings.backup.BACKUP_KEEP_AT_LEAST))
    old = [one for one in old if one.file not in kept]
    for manifest in old:
        files.delete(manifest)
    return [manifest.file for manifest in old]


def _find(path: Path | None, foreign: bool) -> Manifest:
    """Return the manifest of a backup, the newest by default; download it if it is not here."""
    name = database.name()
    if path is None:
        # Who can write to the store can run SQL: it is asked when there is nothing else.
        known = files.list_backups(name, database.server())
        known = known or [*files.list_backups(name), *copies.list_copies(name)]
        if not known:
            raise InvalidBackupError("there is no good backup: create one")
        path = known[0].path
    if not path.exists() and path.name == str(path):
        path = settings.backup.BACKUP_DIR / path
    if not path.exists() and settings.backup.BACKUP_COPY_URL:
        path = copies.download(path.name)
    manifest = files.read_manifest(path)
    if manifest.database != name and not foreign:
        raise InvalidBackupError(
            f"{path.name} is a backup of the database {manifest.database}:"
            " add --foreign if that is what you want"
        )
    if not files.is_good(manifest):
        raise InvalidBackupError(f"{path.name} is damaged: use another backup")
    return manifest


def _refuse_if_in_use(manifest: Manifest) -> None:
    """Refuse to replace rows by those of another server; a new machine has none."""
    tables = database.facts()["tables"]
    if any(rows for table, rows in tables.items() if "alembic_version" not in table):
        raise InvalidBackupError(
            f"{manifest.file} was made on another server ({manifest.server}), and the live"
            " database holds rows: add --foreign if that is what you want"
        )


@contextmanager
def _dropped_on_error(side: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(BackupError):  # Report the first error; the next run removes what is left.
            database.drop(side)
        raise


def _restore_beside(manifest: Manifest, kind: str) -> str:
    """Restore into a side database, compare it with the manifest, and return its name.

    A verification leaves alone what a restore has left for its user.
    """
    for name in {*database.sides("verify"), *database.sides(kind)}:
        database.drop(name)
    side = database.side_name(kind)
    with _dropped_on_error(side):
        with files.reading(manifest.path) as source:
            found = database.load(side, source, manifest)
        for key, value in found.items():
            _compare(manifest, key, getattr(manifest, key), value)
    return side


def _compare(manifest: Manifest, key: str, expected: Any, found: Any) -> None:
    if isinstance(expected, dict):
        names = [name for name in expected | found if expected.get(name) != found.get(name)]
        expected, found = [{name: rows.get(name) for name in names} for rows in (expected, found)]
    if expected != found:
        raise InvalidBackupError(
            f"{manifest.file} does not match its manifest; {key}: {found}, not {expected}"
        )
