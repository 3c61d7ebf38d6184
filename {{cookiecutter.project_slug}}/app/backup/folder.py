"""The backup folder: names of files, manifests, and which backups are good."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from glob import escape, glob
from pathlib import Path
from typing import Any
from urllib.parse import quote

from isal import igzip, isal_zlib
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from app.backup import {{ cookiecutter.database }} as engine
from app.backup.base import Meter, give_to_owner_of_folder, private_file
from app.backup.config import BackupConfig, Progress, no_progress
from app.backup.errors import BackupError, InvalidBackupError, StorageError

ENGINE = "{{ cookiecutter.database }}"
STAMP = "%Y%m%d_%H%M%S"


class Manifest(BaseModel):
    """What is known about a backup. Sizes are in bytes, times are in UTC.

    ``server`` identifies the server or the file that was dumped. ``sequence`` grows from one
    backup of a database to the next, and tells the newest one if the clock was wrong. ``tables``
    (rows per table), ``revision`` (Alembic's) and ``properties`` describe the dumped state.
    ``notes`` tell what a restore needs or leaves out.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    project: str
    database: str
    engine: str
    server: str
    created_at: AwareDatetime
    sequence: int
    sha256: str
    size: int
    dump_size: int
    seconds: float
    versions: dict[str, str]
    revision: str | None = None
    tables: dict[str, int]
    properties: dict[str, Any] = {}
    notes: list[str] = []
    run_id: str | None = None
    verified_at: AwareDatetime | None = None
    copied_at: AwareDatetime | None = None
    # The off-site object; present in the off-site manifest only.
    copy_sha256: str | None = None
    copy_file: str | None = None

    def to_dict(self, folder: Path) -> dict[str, Any]:
        """Return plain JSON data, with the path of the file in that folder."""
        found = self.model_dump(mode="json", exclude={"copy_file", "copy_sha256"})
        return {**found, "path": str(folder / self.file), "problem": None}


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def newest_first(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Sort by sequence, not by clock: a clock that was wrong once cannot mix up the order."""
    return sorted(manifests, key=lambda one: (one.sequence, one.created_at), reverse=True)


def parse_manifest(name: str, text: bytes) -> Manifest:
    """Parse the manifest of the backup ``name``; raise InvalidBackupError if it is malformed."""
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidBackupError(
            f"the manifest of {name} is damaged: {where} {first['msg']}"
        ) from None
    if manifest.file != name:
        raise InvalidBackupError(f"the manifest of {name} is that of {manifest.file}")
    return manifest


def read_backup(path: Path) -> Manifest:
    """Return the manifest of a backup.

    Raises:
        InvalidBackupError: it is absent or malformed, or the file has another size.
    """
    try:
        size = path.stat().st_size
        manifest = parse_manifest(path.name, manifest_path(path).read_bytes())
    except OSError as error:
        raise InvalidBackupError(f"{error.filename} cannot be read: {error.strerror}") from None
    if size != manifest.size:
        raise InvalidBackupError(f"{path} has {size} bytes instead of {manifest.size}")
    return manifest


def read_through(path: Path, progress: Progress = no_progress) -> tuple[str, int]:
    """Decompress a backup to its end and inspect what is in it.

    Returns the SHA-256 of the file and the size of the dump in it, in bytes.

    Raises:
        InvalidBackupError: it is damaged, incomplete, or holds what must not be run.
    """
    with damage_errors(path), igzip.open(path, "rb") as plain:
        meter = Meter(plain, progress, "check")
        engine.inspect(meter)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), meter.done


def check_content(path: Path, manifest: Manifest, progress: Progress = no_progress) -> None:
    """Compare a backup with the checksum and the size in its manifest.

    Raises:
        InvalidBackupError: it is damaged, or another file.
    """
    if read_through(path, progress) != (manifest.sha256, manifest.dump_size):
        raise InvalidBackupError(f"{path} has another checksum than its manifest: use another one")


@contextmanager
def damage_errors(path: Path) -> Iterator[None]:
    """Turn errors of decompression into InvalidBackupError."""
    try:
        yield
    # isal's type stub declares its error as an instance.
    except (EOFError, igzip.BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]
        raise InvalidBackupError(f"{path} is damaged ({error}): use another backup") from None
    except InvalidBackupError as error:
        raise InvalidBackupError(f"{path} {error}") from None


def scan(config: BackupConfig) -> tuple[list[Manifest], dict[str, str]]:
    """Return this database's good backups, the newest first, and the problems of other files.

    Backups of the same database on another server are included; those of other projects are not.
    """
    good, problems = [], {}
    digits = "[0-9]" * 8 + "_" + "[0-9]" * 6
    pattern = f"{escape(prefix(config))}{digits}{engine.SUFFIX}"
    # Unlike Path.glob, this finds nothing in a folder that cannot be read.
    for name in glob(pattern, root_dir=config.directory):  # noqa: PTH207
        try:
            manifest = read_backup(config.directory / name)
        except InvalidBackupError as error:
            problems[name] = str(error)
        else:
            if is_ours(config, manifest):
                good.append(manifest)
    return newest_first(good), problems


def good_backups(config: BackupConfig, server: str | None = None) -> list[Manifest]:
    """Return this database's good backups, of one server or of all, the newest first."""
    return [one for one in scan(config)[0] if server in (None, one.server)]


def expired(backups: list[Manifest], config: BackupConfig, retention_days: int) -> list[Manifest]:
    """Return those that are older than ``retention_days``, but not the newest ``keep_at_least``."""
    if retention_days < 1:
        raise BackupError("retention_days must be 1 or more")
    limit = now() - timedelta(days=retention_days)
    return [one for one in backups[max(1, config.keep_at_least) :] if one.created_at < limit]


def is_ours(config: BackupConfig, manifest: Manifest) -> bool:
    """Return whether a backup belongs to this project and database, on whatever server."""
    ours = (ENGINE, config.project, engine.database_name(config.url))
    return (manifest.engine, manifest.project, manifest.database) == ours


def manifest_path(path: Path) -> Path:
    """Return the path of a backup's manifest."""
    return path.with_name(f"{path.name}.json")


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a backup's manifest, whole or not at all."""
    partial = path.with_name(f".{path.name}.json.partial")
    try:
        with private_file(partial) as file:
            file.write(manifest.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")
        partial.replace(manifest_path(path))
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def update_manifest(path: Path, **values: object) -> None:
    """Change values of a backup's manifest."""
    manifest = parse_manifest(path.name, manifest_path(path).read_bytes())
    write_manifest(path, manifest.model_copy(update=values))


def publish(config: BackupConfig, partial: Path, manifest: Manifest) -> Path:
    """Give a complete backup its final name, and return its path. The manifest is written first."""
    path = config.directory / manifest.file
    write_manifest(path, manifest)
    partial.rename(path)
    sync_folder(path.parent)
    return path


def new_name(config: BackupConfig, moment: datetime) -> str:
    """Return the file name of a new backup."""
    names = {path.name.removesuffix(".json") for path in config.directory.iterdir()}
    return free_name(lambda stamp: f"{prefix(config)}{stamp}{engine.SUFFIX}", names, moment)


def free_name(name_of: Callable[[str], str], taken: Collection[str], moment: datetime) -> str:
    """Return the name that a moment gives; if it is taken, that of the next free second."""
    while (name := name_of(moment.strftime(STAMP))) in taken:
        moment += timedelta(seconds=1)
    return name


def partial_path(config: BackupConfig, server: str) -> Path:
    """Return the path of an unfinished backup: hidden, and without a backup's ending."""
    return config.directory / f".{prefix(config)}{quote(server, safe='')[-40:]}.partial"


def remove_leftovers(config: BackupConfig, server: str) -> None:
    """Remove what a killed run left behind. Call it under the database's lock."""
    for name in (server, "download"):
        partial_path(config, name).unlink(missing_ok=True)
    for path in config.directory.glob(f".{escape(prefix(config))}*.json.partial"):
        path.unlink(missing_ok=True)
    for path in config.directory.glob(f"{escape(prefix(config))}*.json"):
        data = path.with_suffix("")
        with suppress(OSError, InvalidBackupError):
            manifest = parse_manifest(data.name, path.read_bytes())
            if not data.exists() and is_ours(config, manifest) and manifest.server == server:
                path.unlink()


def make_folder(config: BackupConfig) -> None:
    """Create the backup folder."""
    if not config.directory.is_dir():
        config.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        give_to_owner_of_folder(config.directory)


@contextmanager
def storage_errors(config: BackupConfig) -> Iterator[None]:
    """Turn an error of the file system into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write to the backup folder {config.directory}: {error.strerror or error}:"
            " free space, make it writable, or set BACKUP_DIR"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def prefix(config: BackupConfig) -> str:
    """Return the first part of the names of this database's backups."""
    # Quoted, because a database's name may hold any character, a slash included.
    return f"{quote(engine.database_name(config.url), safe='')}_backup_"
