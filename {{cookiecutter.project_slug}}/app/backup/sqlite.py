"""SQLite: the ``sqlite3`` module."""

import fcntl
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from glob import escape
from pathlib import Path
from shutil import copyfileobj, disk_usage
from typing import Any

from app.backup import base
from app.backup.base import Dumped, Facts, Reader, Writer, chunks, driver_arguments, driver_errors
from app.backup.errors import BusyError, DatabaseError, InvalidBackupError, RefusedError

SUFFIX = ".sqlite3.gz"
WAIT = 30.0  # seconds to wait for a lock of SQLite's
HEADER = b"SQLite format 3\0"
# Collations and functions of the application, in SQLite's messages.
UNKNOWN = re.compile(r"(collation sequence|function): (.+?)(?:\(\))?$", re.DOTALL)


def database_name(url: str) -> str:
    """Return the file's name without its ending."""
    return _path(url).stem


def server_id(url: str) -> str:
    """Return the path of the file."""
    return str(_path(url).resolve())


def side_name(url: str, kind: str, stamp: str) -> str:
    """Return the path of a side ("restore") or kept ("old") file, beside the live one."""
    return f"{_path(url)}.{kind}_{stamp}"


def side_databases(url: str, kind: str) -> list[str]:
    """Return the side or kept files of this database, oldest first."""
    live = _path(url)
    found = (str(path) for path in live.parent.glob(f"{escape(live.name)}.{kind}_*"))
    return sorted(name for name in found if re.search(r"\d{8}_\d{6}$", name))


@contextmanager
def locked(url: str, wait: float) -> Iterator[None]:
    """Hold the lock on the file beside the database, which ends with this process."""
    path = _path(url)
    lock = path.with_name(f".{path.name}.backup-lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        base.give_to_owner_of_folder(lock)
    except OSError as error:
        raise DatabaseError(f"{path.parent} cannot be written: {error.strerror}") from None
    try:
        if not base.poll(lambda: _flock(fd, path), wait):
            raise BusyError("another backup or restore of this database is running: try later")
        yield
    finally:
        os.close(fd)


def dump(url: str, target: Writer) -> Dumped:
    """Copy the database to a file of its own, in one read transaction, and write that file.

    https://www.sqlite.org/backup.html
    """
    path = _path(url)
    if not path.is_file():
        raise DatabaseError(f"there is no SQLite file {path}: look at DATABASE_URL")
    partial = path.with_name(f".{path.name}.backup-copy")

    def progress(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise BusyError(f"a transaction kept {path} locked for {WAIT:.0f} s: end it first")

    drop(url, str(partial))  # Left by a run that was killed.
    try:
        with driver_errors(sqlite3.Error, "", f"SQLite {path}"), closing(_connect(path)) as source:
            size = _pragma(source, "page_count") * _pragma(source, "page_size")
            # The copy, and at worst as much for the compressed backup.
            if disk_usage(path.parent).free < 2 * size:
                raise DatabaseError(f"{path.parent} needs {2 * size / 1e6:.0f} MB for a backup")
            partial.touch(mode=0o600)
            with closing(_connect(partial)) as copy:
                # In one step: a writer would make several begin again.
                source.backup(copy, progress=progress)
                counted = _checked_facts(copy, path)
        with partial.open("rb") as file:
            copyfileobj(file, target, base.CHUNK)
    finally:
        drop(url, str(partial))
    return Dumped(counted, {"server": sqlite3.sqlite_version, "tool": "sqlite3"})


def inspect(source: Reader) -> None:
    """Read a dump to its end; refuse one that is not a database file."""
    if not source.read(base.CHUNK).startswith(HEADER):
        raise InvalidBackupError("is not a SQLite database")
    for _ in chunks(source):
        pass


def load(url: str, side: str, source: Reader, properties: dict[str, Any]) -> None:
    """Write the dump to a new file, mode 0600."""
    with driver_errors(OSError, "", side), base.private_file(Path(side)) as file:
        copyfileobj(source, file, base.CHUNK)


def facts(url: str, side: str | None) -> Facts:
    """Check a file with SQLite's own integrity check, and count its rows; none if it is absent."""
    path = Path(side) if side else _path(url)
    if not path.exists():
        return Facts({}, None)
    with driver_errors(sqlite3.Error, "", f"SQLite {path}"), closing(_connect(path)) as db:
        return _checked_facts(db, path)


def swap(url: str, side: str, old: str, properties: dict[str, Any]) -> list[str]:
    """Put the side file's content into the live file, in one transaction.

    The content goes in through SQLite (online backup with the live file as its target), so that
    open connections see either the old or the new state, and nothing is lost in a file that was
    moved away. A process killed half way leaves an unfinished transaction, which SQLite ignores.
    """
    live = _path(url)
    if not live.exists():
        with driver_errors(sqlite3.Error, "", side), closing(_connect(Path(side))) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        Path(side).rename(live)
        return []
    doing = f"{live} cannot be replaced (if it is damaged, move it away and restore again)"
    with (
        driver_errors(sqlite3.Error, "", doing),
        closing(_connect(live)) as target,
        closing(_connect(live)) as reader,
        closing(_connect(Path(side))) as source,
    ):
        sizes = [_pragma(db, "page_size") for db in (source, target)]
        if len(set(sizes)) > 1 and _pragma(target, "page_count"):
            raise RefusedError(
                f"the pages of the backup have {sizes[0]} bytes, those of {live} {sizes[1]}: stop"
                " the application, move the live file away (with -wal and -shm), restore again"
            )
        # Readers beside a writer, needed below, exist in WAL mode only.
        target.execute("PRAGMA journal_mode = WAL").fetchall()
        _overwrite(source, target, keep=lambda: _keep(reader, side, old))
        reader.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    drop(url, side)
    return []


def drop(url: str, name: str) -> None:
    """Remove a side or kept file, and what SQLite puts beside it."""
    for ending in ("", "-wal", "-shm", "-journal"):
        Path(name + ending).unlink(missing_ok=True)


def _path(url: str) -> Path:
    args, kwargs = driver_arguments(url)
    if not args or args[0] == ":memory:":
        raise DatabaseError("the SQLite database is in memory: there is nothing to back up")
    if not kwargs.get("uri"):
        return Path(args[0]).absolute()
    with (
        driver_errors(sqlite3.Error, "", "SQLite"),
        closing(sqlite3.connect(*args, **kwargs)) as db,
    ):
        return Path(db.execute("PRAGMA database_list").fetchone()[2])


def _flock(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise DatabaseError(
            f"the file system of {path.parent} has no locks ({error.strerror}), which SQLite"
            " needs too: put the database on a local disk"
        ) from None
    return True


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _checked_facts(db: sqlite3.Connection, path: Path) -> Facts:
    # A row that a CHECK constraint no longer allows, such as one about the time, is no damage.
    db.execute("PRAGMA ignore_check_constraints = ON")
    problem = _with_stand_ins(db, "PRAGMA quick_check(1)")[0][0]
    if problem != "ok":
        raise InvalidBackupError(f"the database in {path} is damaged: {problem}")
    rows = db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite^_%'"
        " ESCAPE '^' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    names = [name for (name,) in rows]
    tables = {}
    for name in names:
        quoted = name.replace('"', '""')
        tables[name] = int(_with_stand_ins(db, f'SELECT count(*) FROM "{quoted}"')[0][0])
    found = None
    if "alembic_version" in tables:
        found = db.execute("SELECT version_num FROM alembic_version").fetchone()
    return Facts(tables, found and str(found[0]))


def _with_stand_ins(db: sqlite3.Connection, query: str) -> list[Any]:
    """Run a query; where it needs a collation or function of the application, a stand-in does.

    Neither a count nor ``quick_check`` looks at the order or the value that they give.
    """
    known = set()
    while True:
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            match = UNKNOWN.search(str(error))
            if match is None or match[0] in known:
                raise
            known.add(match[0])
            if match[1] == "function":
                db.create_function(match[2], -1, lambda *_: None, deterministic=True)
            else:
                db.create_collation(match[2], lambda a, b: (a > b) - (a < b))


def _overwrite(
    source: sqlite3.Connection, target: sqlite3.Connection, keep: Callable[[], None]
) -> None:
    """Copy all pages; call ``keep`` when the target is locked for writing, before any change."""
    pages = _pragma(source, "page_count")
    if pages < 2:
        raise InvalidBackupError("the backup holds no table: the live database was not touched")
    kept = False
    waited = 0.0

    def step(status: int, remaining: int, total: int) -> None:
        nonlocal kept, waited
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            waited += 0.05
            if waited > WAIT:
                raise BusyError(f"a transaction kept the live file locked for {WAIT:.0f} s")
            return
        if not kept:
            keep()
            kept = True
        waited = 0.0

    # The first step must not be the last: the copy commits in it.
    source.backup(target, pages=min(1000, pages - 1), progress=step, sleep=0.05)


def _keep(reader: sqlite3.Connection, side: str, old: str) -> None:
    partial = Path(f"{side}_kept")
    with base.private_file(partial), closing(_connect(partial)) as copy:
        reader.backup(copy)
        # A copy that nobody has open should be one file.
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
    partial.rename(old)
