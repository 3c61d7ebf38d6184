"""The backup folder: names of files, manifests, and which backups are good."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from glob import escape
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from app.backup import {{ cookiecutter.database }} as engine
from app.backup.config import BackupConfig
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


@dataclass(frozen=True)
class Backup:
    """A file with its manifest; ``problem`` says why it is not a good one."""

    path: Path
    manifest: Manifest | None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        found = {"file": self.path.name}
        if self.manifest:
            found = self.manifest.model_dump(mode="json", exclude={"copy_file", "copy_sha256"})
        return {**found, "path": str(self.path), "problem": self.problem}


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def parse_manifest(name: str, text: bytes) -> Manifest:
    """Parse a manifest; raise InvalidBackupError if it is malformed."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidBackupError(
            f"the manifest of {name} is damaged: {where} {first['msg']}"
        ) from None


def read_backup(path: Path) -> Backup:
    """Return the backup in a file, with its problem if it has one."""
    try:
        manifest = parse_manifest(path.name, manifest_path(path).read_bytes())
        size = path.stat().st_size
        if manifest.file != path.name:
            raise InvalidBackupError(f"the manifest of {path.name} is that of {manifest.file}")
    except BackupError as error:
        return Backup(path, None, str(error))
    except FileNotFoundError as error:
        return Backup(path, None, f"there is no file {error.filename}")
    except OSError as error:
        return Backup(path, None, f"{error.filename} cannot be read: {error.strerror}")
    if size != manifest.size:
        return Backup(path, manifest, f"{path} has {size} bytes instead of {manifest.size}")
    return Backup(path, manifest)


def scan(config: BackupConfig) -> list[Backup]:
    """Return this database's backups, the newest first, those without a manifest last.

    Backups of the same database on another server are included; those of other projects are not.
    """
    name = re.compile(re.escape(prefix(config)) + r"\d{8}_\d{6}" + re.escape(engine.SUFFIX))
    try:
        names = sorted(os.listdir(config.directory))  # noqa: PTH208
    except OSError:
        names = []
    found = [read_backup(config.directory / one) for one in names if name.fullmatch(one)]
    ours = [one for one in found if one.manifest is None or is_ours(config, one.manifest)]
    return sorted(ours, key=lambda one: one.manifest.sequence if one.manifest else 0)[::-1]


def is_ours(config: BackupConfig, manifest: Manifest) -> bool:
    """Return whether a backup belongs to this project and database, on whatever server."""
    ours = (ENGINE, config.project, engine.database_name(config.url))
    return (manifest.engine, manifest.project, manifest.database) == ours


def of_server(backups: list[Backup], server: str) -> list[Backup]:
    """Return the good backups of one server."""
    return [
        one
        for one in backups
        if one.problem is None and one.manifest and one.manifest.server == server
    ]


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
    manifest = read_backup(path).manifest
    if manifest:
        write_manifest(path, manifest.model_copy(update=values))


def publish(config: BackupConfig, partial: Path, manifest: Manifest) -> Backup:
    """Give a complete backup its final name. The manifest is written first."""
    path = config.directory / manifest.file
    write_manifest(path, manifest)
    partial.rename(path)
    sync_folder(path.parent)
    return Backup(path, manifest)


def free_name(config: BackupConfig, moment: datetime) -> str:
    """Return the file name of a new backup; if it is taken, that of the next free second."""

    def name_of(stamp: str) -> str:
        return f"{prefix(config)}{stamp}{engine.SUFFIX}"

    names = set(os.listdir(config.directory))  # noqa: PTH208
    taken = {name.removesuffix(".json") for name in names}
    while name_of(moment.strftime(STAMP)) in taken:
        moment += timedelta(seconds=1)
    return name_of(moment.strftime(STAMP))


def partial_path(config: BackupConfig, server: str) -> Path:
    """Return the path of an unfinished backup: hidden, and without a backup's ending."""
    return config.directory / f".{prefix(config)}{quote(server, safe='')[-40:]}.partial"


def remove_leftovers(config: BackupConfig, server: str) -> None:
    """Remove what a killed run left behind. Call it under the database's lock."""
    for name in (server, "download"):
        partial_path(config, name).unlink(missing_ok=True)
    for path in config.directory.glob(f".{escape(prefix(config))}*.json.partial"):
        path.unlink(missing_ok=True)
    for path in config.directory.glob("*.gz.json"):
        backup = path.with_suffix("")
        if not backup.exists():
            manifest = read_manifest_only(path)
            if manifest and is_ours(config, manifest) and manifest.server == server:
                path.unlink(missing_ok=True)


def read_manifest_only(path: Path) -> Manifest | None:
    """Return the manifest in a JSON file, or None if it cannot be read."""
    try:
        return parse_manifest(path.name, path.read_bytes())
    except (OSError, BackupError):
        return None


def make_folder(config: BackupConfig) -> None:
    """Create the backup folder."""
    if not config.directory.is_dir():
        config.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _give_to_owner_of_folder(config.directory)


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """Create a file of mode 0600, replacing what is there, and write it through to the disk."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b") as file:
        _give_to_owner_of_folder(path)
        yield file
        file.flush()
        os.fsync(file.fileno())


def _give_to_owner_of_folder(path: Path) -> None:
    """When root runs a command once, the worker must still be able to read the files."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


@contextmanager
def storage_errors(config: BackupConfig) -> Iterator[None]:
    """Turn an error of the file system into one that says what to do."""
    advice = {
        errno.ENOSPC: "the disk is full: free space",
        errno.EDQUOT: "the quota is used up: free space",
        errno.ENOENT: "it was removed: make it again",
    }
    try:
        yield
    except OSError as error:
        reason = advice.get(error.errno or 0, f"{error.strerror or error}: make it writable")
        raise StorageError(
            f"cannot write to the backup folder {config.directory}: {reason}, or set BACKUP_DIR"
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
