"""Helpers of the engine, the module for this project's database. Its interface:

SUFFIX                       ending of a backup's file name
database_name(url)           the database's own name
server_id(url)               what identifies the server or the file
locked(url, wait)            context manager that holds the database's lock
dump(url, target)            write a consistent dump to a file object; returns Dumped
inspect(source)              read a dump to its end; raises if it is not safe to restore
load(url, side, source, properties)   make a side database and fill it from a dump
facts(url, side)             what that database holds; None is the live one
swap(url, side, old, properties)      replace the live one with it, keep that one as ``old``
drop(url, name)              remove a side or an old database
side_databases(url, kind)    side ("restore") or old ("old") databases of this one
side_name(url, kind, stamp)  the name of one
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import make_url

from app.backup.config import Progress, no_progress
from app.backup.errors import DatabaseError

CHUNK = 1 << 20  # bytes


class Reader(Protocol):
    """A file object that can be read."""

    def read(self, size: int = ..., /) -> bytes: ...


class Writer(Protocol):
    """A file object that can be written."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Facts:
    """What a database holds: rows per table, and the Alembic revision if there is one."""

    tables: dict[str, int]
    revision: str | None


@dataclass(frozen=True)
class Dumped:
    """The result of a dump: facts, versions of server and program, properties of the database."""

    facts: Facts
    versions: dict[str, str]
    properties: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Meter:
    """A file object that counts the bytes that pass, and reports progress twice a second."""

    def __init__(self, file: Any, progress: Progress = no_progress, phase: str = "") -> None:
        self.done = 0
        self._file, self._progress, self._phase, self._due = file, progress, phase, 0.0
        self._count(b"")

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._count(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        data = bytes(self._file.read(size))
        self._count(data)
        return data

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is closed."""

    def _count(self, data: bytes) -> None:
        self.done += len(data)
        if time.monotonic() >= self._due:
            self._progress(self._phase, self.done)
            self._due = time.monotonic() + 0.5


class HashingMeter(Meter):
    """A meter that computes the SHA-256 of the bytes that pass as well."""

    def __init__(self, file: Any, progress: Progress = no_progress, phase: str = "") -> None:
        self.sha256 = hashlib.sha256()
        super().__init__(file, progress, phase)

    def _count(self, data: bytes) -> None:
        self.sha256.update(data)
        super()._count(data)


def chunks(source: Reader) -> Iterator[bytes]:
    """Read a file object to its end."""
    return iter(lambda: source.read(CHUNK), b"")


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """Create a file of mode 0600, replacing what is there, and write it through to the disk."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b") as file:
        give_to_owner_of_folder(path)
        yield file
        file.flush()
        os.fsync(file.fileno())


def give_to_owner_of_folder(path: Path) -> None:
    """After root has run a command, the worker must still be able to read the files."""
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


def driver_arguments(url: str) -> tuple[list[Any], dict[str, Any]]:
    """Return what SQLAlchemy passes to the driver, sockets and ``?options`` included."""
    parsed = make_url(url)
    args, kwargs = parsed.get_dialect()().create_connect_args(parsed)
    return list(args), dict(kwargs)


@contextmanager
def driver_errors(error_type: type[Exception], secret: str, doing: str) -> Iterator[None]:
    """Turn a driver's errors into one line without the password."""
    try:
        yield
    except error_type as error:
        raise DatabaseError(f"{doing}: {one_line(str(error), secret)}") from None


def one_line(text: str, secret: str = "") -> str:
    """Return the beginning of a text on one line, without the password in any of its forms."""
    for form in {secret, quote(secret, safe=""), quote_plus(secret)} - {""}:
        text = text.replace(form, "***")
    return " ".join(text.split())[:1000]


def side_name(database: str, kind: str, stamp: str, limit: int) -> str:
    """Return the name of a side or old database, of at most ``limit`` bytes."""
    ending = f"_{kind}_{stamp}"
    head = database.encode()
    if len(head) + len(ending) > limit:
        # Two long names may begin alike: a hash keeps them apart.
        ending = f"_{hashlib.sha256(head).hexdigest()[:8]}{ending}"
    return head[: limit - len(ending)].decode(errors="ignore") + ending


def of_kind(database: str, kind: str, names: Iterable[str], limit: int) -> list[str]:
    """Return those of ``names`` that ``side_name`` gives for this database, oldest first."""
    found = (re.search(r"\d{8}_\d{6}$", name) for name in names)
    return sorted(
        match.string
        for match in found
        if match and match.string == side_name(database, kind, match[0], limit)
    )


def poll(attempt: Callable[[], bool], wait: float, pause: float = 0.1) -> bool:
    """Call ``attempt`` until it succeeds, for at most ``wait`` seconds."""
    deadline = time.monotonic() + wait
    while not attempt():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True
