"""SQLite: the file is read, as one consistent state, while the application goes on writing."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from app.backup.engines.base import (
    Facts,
    Snapshot,
    counting,
    driver_arguments,
    driver_errors,
)
from app.backup.errors import BusyError, DatabaseError, InvalidBackupError
from app.backup.tools import Command, find

SUFFIX = ".sqlite3.gz"
END = b""
WAIT = 30.0  # seconds to wait for a lock


def database_name(url: str) -> str:
    """Return the file's name without its ending."""
    return _path(url).stem


def side_name(url: str, kind: str, stamp: str) -> str:
    """Return the path of a side ("restore") or kept ("old") file, beside the live one."""
    return f"{_path(url)}.{kind}_{stamp}"


def others(url: str, kind: str) -> list[str]:
    """Return the side or kept files of this database, oldest first."""
    live = _path(url)
    pattern = f"{_glob_quote(live.name)}.{kind}_[0-9]*_[0-9]*"
    found = (str(path) for path in live.parent.glob(pattern))
    return sorted(name for name in found if not name.endswith(("-wal", "-shm", "-journal")))


@contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """Hold the database still in one read transaction, and give the program that reads it.

    This is the procedure of https://www.sqlite.org/backup.html, "shared lock, then an external
    copy", which needs no uncompressed copy on the disk. It is made safe for WAL mode by
    `_hold_still`. The reader must be another process: closing the file in this one would drop
    this process's locks (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    path = _path(url)
    if not path.is_file():
        raise DatabaseError(f"there is no SQLite file {path}: look at DATABASE_URL")
    tool = find(("cat",), "coreutils")
    with driver_errors(sqlite3.Error, "", f"SQLite {path}"), closing(_connect(path)) as db:
        _hold_still(db, path)
        size = _pragma(db, "page_count") * _pragma(db, "page_size")
        with counting(lambda: _checked_facts(db, path), db.interrupt) as facts:
            yield Snapshot(
                command=Command((tool, "--", str(path))),
                versions={
                    "server": sqlite3.sqlite_version,
                    "tool": f"cat {sqlite3.sqlite_version}",
                },
                facts=facts,
                size=size,
            )


@contextmanager
def side(url: str, name: str) -> Iterator[Callable[[bytes], object]]:
    """Write the dump's bytes to a new file of that name, mode 0600."""
    path = Path(name)
    path.touch(mode=0o600, exist_ok=False)
    with path.open("wb") as file:
        yield file.write
        file.flush()
        os.fsync(file.fileno())


def facts(url: str, name: str) -> Facts:
    """Check the file with SQLite's own integrity check, and count its rows."""
    with driver_errors(sqlite3.Error, "", f"SQLite {name}"), closing(_connect(Path(name))) as db:
        return _checked_facts(db, Path(name))


def swap(url: str, side: str, old: str) -> list[str]:
    """Put the side file's content into the live file, in one transaction.

    The content goes in through SQLite (online backup with the live file as its target), so
    that connections which are open see either the old or the new state and nothing is lost in
    a file that was moved away. A process killed half way leaves an unfinished transaction,
    which SQLite ignores.
    """
    live = _path(url)
    if not live.exists():
        _checkpoint(Path(side))
        Path(side).rename(live)
        return []
    doing = f"{live} cannot be replaced (if it is damaged, move it away and restore again)"
    with (
        driver_errors(sqlite3.Error, "", doing),
        closing(_connect(live)) as target,
        closing(_connect(live)) as reader,
        closing(_connect(Path(side))) as source,
    ):
        # Readers beside a writer, needed below, exist in WAL mode only.
        target.execute("PRAGMA journal_mode = WAL").fetchall()
        _match_page_size(source, _pragma(target, "page_size"))
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


def _glob_quote(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _hold_still(db: sqlite3.Connection, path: Path) -> None:
    """Open a read transaction whose whole state is in the main file.

    In WAL mode new content waits in a second file. When the write-ahead log has been copied
    back completely and nobody has committed since (data_version), a reader's state is that of
    the main file, and no checkpoint may write to it until the reader ends; writers go on in the
    log. See https://www.sqlite.org/wal.html#concurrency. Outside WAL mode, the reader's shared
    lock makes writers wait.
    """
    deadline = time.monotonic() + WAIT
    while True:
        before = _pragma(db, "data_version")
        _, frames, copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchall()
        if frames == copied and _pragma(db, "data_version") == before:
            return
        db.execute("ROLLBACK")
        if time.monotonic() > deadline:
            raise BusyError(f"a transaction has been open on {path} for {WAIT:.0f} s: end it first")
        time.sleep(0.01)


def _checked_facts(db: sqlite3.Connection, path: Path) -> Facts:
    problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise InvalidBackupError(f"the database in {path} is damaged: {problem}")
    rows = db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite^_%'"
        " ESCAPE '^' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    tables = {name: _count(db, name) for (name,) in rows}
    found = None
    if "alembic_version" in tables:
        found = db.execute("SELECT version_num FROM alembic_version").fetchone()
    return Facts(tables, found and str(found[0]))


def _count(db: sqlite3.Connection, table: str) -> int:
    quoted = table.replace('"', '""')
    return int(db.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()[0])


def _checkpoint(path: Path) -> None:
    with closing(_connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _match_page_size(db: sqlite3.Connection, size: int) -> None:
    """Rewrite the side file if needed: a live file in WAL mode cannot change its page size."""
    if _pragma(db, "page_size") != size:
        db.execute("PRAGMA journal_mode = DELETE").fetchall()
        db.execute(f"PRAGMA page_size = {size}")
        db.execute("VACUUM")


def _overwrite(
    source: sqlite3.Connection, target: sqlite3.Connection, keep: Callable[[], None]
) -> None:
    """Copy all pages; call `keep` when the target is locked for writing, before any change."""
    pages = _pragma(source, "page_count")
    if pages < 2:
        raise InvalidBackupError("the backup holds no table: the live database was not touched")
    kept = False
    deadline = time.monotonic() + WAIT

    def step(status: int, remaining: int, total: int) -> None:
        nonlocal kept, deadline
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() > deadline:
                raise BusyError(f"a transaction kept the live file locked for {WAIT:.0f} s")
            return
        if not kept:
            keep()
            kept = True
        deadline = time.monotonic() + WAIT

    # The first step must not be the last: the copy commits in it.
    source.backup(target, pages=min(1000, pages - 1), progress=step, sleep=0.05)


def _keep(reader: sqlite3.Connection, side: str, old: str) -> None:
    partial = Path(f"{side}_kept")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    with closing(_connect(partial)) as copy:
        reader.backup(copy)
        # A copy that nobody has open should be one file.
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
    partial.rename(old)
