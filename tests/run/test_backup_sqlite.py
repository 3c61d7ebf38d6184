"""Backups of a SQLite database that other processes use, and of unusual schemas."""

import gzip
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.harness import Stack, project_environment

# Holds the lock of a checkpoint, which SQLite keeps on this byte of the file -shm:
# https://www.sqlite.org/walformat.html#locks
CHECKPOINT = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 121)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def stack(installed: Bake, tmp_path: Path) -> Iterator[Stack]:
    """A project with an empty database."""
    project = installed(use_celery=False, use_redis=False, use_docker=False)
    with Stack(project, tmp_path / "stack") as stack:
        yield stack


def live(stack: Stack) -> Path:
    """Return the path of the database."""
    return stack.folder / "app.db"


def backup(stack: Stack, *arguments: str) -> None:
    """Run a command of the backups, which must succeed and leave nothing beside the database."""
    stack.run("python", "-m", "app.backup", *arguments, timeout=60)
    assert not list(stack.folder.glob(".*copy*"))


def fail(stack: Stack, *arguments: str) -> str:
    """Run a command of the backups that must fail, and return its message."""
    result = subprocess.run(
        [stack.project / ".venv/bin/python", "-m", "app.backup", *arguments],
        cwd=stack.project,
        env=project_environment(stack.project, **stack.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert not list((stack.folder / "backups").glob("*.gz"))
    return result.stderr


def newest(stack: Stack) -> Path:
    """Unpack the newest backup as the docs say, and return the file."""
    path = stack.folder / "unpacked.db"
    with gzip.open(max((stack.folder / "backups").glob("*.sqlite3.gz"))) as packed:
        path.write_bytes(packed.read())
    return path


def test_backup_during_a_checkpoint_of_another_process(stack: Stack) -> None:
    with closing(sqlite3.connect(live(stack), isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("CREATE TABLE accounts (name, balance)")
        db.execute("INSERT INTO accounts VALUES ('a', 100), ('b', 0)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("UPDATE accounts SET balance = 100 - balance")  # Is in the log only.
        with subprocess.Popen(
            [sys.executable, "-c", CHECKPOINT, f"{live(stack)}-shm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as checkpoint:
            assert checkpoint.stdout is not None
            assert checkpoint.stdout.readline() == "locked\n"
            backup(stack, "create")
            checkpoint.communicate()
    with closing(sqlite3.connect(newest(stack))) as db:
        assert db.execute("SELECT * FROM accounts").fetchall() == [("a", 0), ("b", 100)]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_backup_beside_a_reader_that_does_not_end(stack: Stack) -> None:
    with (
        closing(sqlite3.connect(live(stack), isolation_level=None)) as writer,
        closing(sqlite3.connect(live(stack), isolation_level=None)) as reader,
    ):
        writer.execute("CREATE TABLE t (n)")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        writer.execute("INSERT INTO t VALUES (1)")
        backup(stack, "create")
    with closing(sqlite3.connect(newest(stack))) as db:
        assert db.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_backup_with_a_collation_that_has_a_hyphen(stack: Stack) -> None:
    with closing(sqlite3.connect(live(stack), isolation_level=None)) as db:
        db.create_collation("de-DE", lambda a, b: (a > b) - (a < b))
        db.execute('CREATE TABLE t (name TEXT COLLATE "de-DE" PRIMARY KEY)')
        db.execute("INSERT INTO t VALUES ('ä'), ('b')")
    backup(stack, "create")
    backup(stack, "verify")


def test_backup_that_finds_no_room_is_refused(stack: Stack) -> None:
    """The database has a hole that is larger than the disk."""
    pages = shutil.disk_usage(stack.folder).free // 4096 + 1000
    with live(stack).open("r+b") as file:
        file.truncate(pages * 4096)
        file.seek(28)  # The number of pages: https://www.sqlite.org/fileformat.html
        file.write(pages.to_bytes(4, "big"))
    assert " MB " in fail(stack, "create")
    assert not list(stack.folder.glob(".*copy*"))


def test_backup_of_rows_that_a_check_constraint_no_longer_allows(stack: Stack) -> None:
    with closing(sqlite3.connect(live(stack), isolation_level=None)) as db:
        db.execute("CREATE TABLE codes (expires_at TEXT CHECK (expires_at > current_timestamp))")
        db.execute("PRAGMA ignore_check_constraints = ON")  # It was inserted long ago.
        db.execute("INSERT INTO codes VALUES ('2020-01-01 00:00:00')")
    backup(stack, "create")
    backup(stack, "verify")
    with closing(sqlite3.connect(live(stack), isolation_level=None)) as db:
        db.execute("DELETE FROM codes")
    backup(stack, "restore", "--yes")
    with closing(sqlite3.connect(live(stack))) as db:
        assert db.execute("SELECT * FROM codes").fetchall() == [("2020-01-01 00:00:00",)]


def test_a_damaged_database_is_not_backed_up(stack: Stack) -> None:
    with closing(sqlite3.connect(live(stack), isolation_level=None)) as db:
        db.execute("CREATE TABLE t (n)")
        db.execute("INSERT INTO t VALUES (1)")
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 't'").fetchone()[0]
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with live(stack).open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"damaged!")
    assert re.search("damaged|malformed", fail(stack, "create"))


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
def test_what_a_lost_file_left_stops_a_restore(stack: Stack, ending: str) -> None:
    """SQLite would apply it to the restored file."""
    backup(stack, "create")
    live(stack).unlink()
    rest = live(stack).with_name(f"app.db{ending}")
    rest.write_bytes(b"left")
    with pytest.raises(AssertionError, match=f"{rest} belongs to a file that is gone"):
        backup(stack, "restore", "--yes")
    rest.unlink()
    backup(stack, "restore", "--yes")
