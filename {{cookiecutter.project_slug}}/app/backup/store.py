"""The backup folder: names, manifests, the lock, and which backups are good."""

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.backup.engines import engine_for
from app.backup.errors import BackupError, BusyError, InvalidBackupError, StorageError

STAMP = "%Y%m%d_%H%M%S"


@dataclass(frozen=True)
class BackupConfig:
    """What is backed up, and where to.

    `url` is an SQLAlchemy URL; `directory` may be shared by the backups of several databases.
    """

    url: str
    directory: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "directory", Path(self.directory).absolute())

    def __repr__(self) -> str:  # the URL holds the password
        return f"BackupConfig(directory={str(self.directory)!r})"


@dataclass(frozen=True)
class Manifest:
    """What is known about a backup. Sizes in bytes, times in ISO 8601 UTC.

    `sequence` counts the backups of a database in a folder, and says which one is the newest
    whatever the clock did. `tables` and `revision` describe the dumped state.
    """

    file: str
    database: str
    engine: str
    created_at: str
    sequence: int
    sha256: str
    size: int
    dump_size: int
    seconds: float
    versions: dict[str, str]
    revision: str | None
    tables: dict[str, int]
    run_id: str | None = None
    verified_at: str | None = None


@dataclass(frozen=True)
class Backup:
    """A file with its manifest; `problem` says why it is not a good one."""

    path: Path
    manifest: Manifest | None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        manifest = asdict(self.manifest) if self.manifest else {"file": self.path.name}
        return {**manifest, "path": str(self.path), "problem": self.problem}


def now() -> datetime:
    """Return the time of day, with its zone."""
    return datetime.now(UTC)


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a backup is."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a backup; raise InvalidBackupError if there is none or it is broken."""
    try:
        return Manifest(**json.loads(manifest_path(path).read_bytes()))
    except OSError:
        raise InvalidBackupError(
            f"{path} has no manifest {manifest_path(path).name} beside it: it cannot be checked"
        ) from None
    except (ValueError, TypeError):
        raise InvalidBackupError(f"the manifest {manifest_path(path)} is damaged") from None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a backup's manifest, whole or not at all."""
    partial = path.with_name(f".{path.name}.json.partial")
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    with private_file(partial) as fd:
        os.write(fd, text.encode())
        os.fsync(fd)
    partial.replace(manifest_path(path))
    sync_folder(path.parent)


def mark_verified(path: Path) -> None:
    """Note in the manifest that the backup has just been restored successfully."""
    write_manifest(path, replace(read_manifest(path), verified_at=now().isoformat()))


def scan(config: BackupConfig) -> list[Backup]:
    """Return this database's backups, the newest first, the unreadable ones last."""
    engine = engine_for(config.url)
    prefix = re.escape(_prefix(config))
    name = re.compile(prefix + r"\d{8}_\d{6}" + re.escape(engine.SUFFIX))
    paths = config.directory.glob("*.gz") if config.directory.is_dir() else []
    backups = [backup_at(path) for path in paths if name.fullmatch(path.name)]
    return sorted(backups, key=lambda one: one.manifest.sequence if one.manifest else 0)[::-1]


def good(config: BackupConfig) -> list[Backup]:
    """Return the backups without a known problem, the newest first."""
    return [backup for backup in scan(config) if backup.problem is None]


def newest(config: BackupConfig) -> Backup:
    """Return the newest good backup."""
    backups = good(config)
    if not backups:
        raise InvalidBackupError(f"there is no good backup in {config.directory}: create one")
    return backups[0]


def free_path(config: BackupConfig, moment: datetime) -> Path:
    """Return a name for a new backup; if there is one of the same second, the next free one."""
    suffix = engine_for(config.url).SUFFIX

    def path_of(stamp: str) -> Path:
        return config.directory / f"{_prefix(config)}{stamp}{suffix}"

    def is_taken(stamp: str) -> bool:
        return path_of(stamp).exists() or manifest_path(path_of(stamp)).exists()

    return path_of(free_stamp(moment, is_taken))


def free_stamp(moment: datetime, is_taken: Callable[[str], bool]) -> str:
    """Return a moment as it stands in names; where that is taken, the next free second."""
    while is_taken(stamp := moment.strftime(STAMP)):
        moment += timedelta(seconds=1)
    return stamp


def partial_path(config: BackupConfig) -> Path:
    """Return where an unfinished backup is: hidden, and without a backup's ending."""
    return config.directory / f".{_prefix(config)}partial"


def remove_leftovers(config: BackupConfig) -> None:
    """Remove what a killed run left behind. Call it under the lock."""
    partial_path(config).unlink(missing_ok=True)
    for partial in config.directory.glob(f".{_glob(_prefix(config))}*.json.partial"):
        partial.unlink(missing_ok=True)
    for orphan in config.directory.glob(f"{_glob(_prefix(config))}*.gz.json"):
        if not orphan.with_suffix("").exists():
            orphan.unlink(missing_ok=True)


@contextmanager
def locked(config: BackupConfig, wait: float = 0.0) -> Iterator[None]:
    """Hold this database's lock on the folder; wait up to `wait` seconds for another holder.

    The lock ends with the process that holds it, whatever ends that.
    """
    with storage_errors(config):
        config.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(config.directory / f".{_prefix(config)}lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(fd, time.monotonic() + wait)
        yield
    finally:
        os.close(fd)


@contextmanager
def private_file(path: Path) -> Iterator[int]:
    """Create a file of mode 0600, replacing what is there."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        yield fd
    finally:
        os.close(fd)


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
        reason = advice.get(error.errno or 0, f"{error.strerror}: make it writable")
        raise StorageError(
            f"cannot write to the backup folder {config.directory}: {reason}, or set BACKUP_DIR"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _prefix(config: BackupConfig) -> str:
    # Quoted, because a database's name may hold any character, a slash included.
    return f"{quote(engine_for(config.url).database_name(config.url), safe='')}_backup_"


def _glob(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def backup_at(path: Path) -> Backup:
    """Return the backup in a file, with its problem if it has one."""
    try:
        manifest = read_manifest(path)
    except BackupError as error:
        return Backup(path, None, str(error))
    size = path.stat().st_size
    if size != manifest.size:
        return Backup(path, manifest, f"{size} bytes long instead of {manifest.size}")
    return Backup(path, manifest)


def _lock(fd: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BusyError(
                    "another backup or restore of this database is running: try again later"
                ) from None
            time.sleep(0.1)
        else:
            return
