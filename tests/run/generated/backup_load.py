"""What takes longer: awkward content, many rows, writers that never stop, kills at any moment."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from app.backup import create_backup, database, files, operations, verify_backup
from app.core.config.settings import PROJECT_ROOT, settings
from tests.backup.conftest import TEXTS, delete_all, read
from tests.servers import wait_until

metadata = sa.MetaData()
audit = sa.Table("audit", metadata, sa.Column("user_name", sa.Unicode(200)))
odd = sa.Table("odd \"na'me` (x),(", metadata, sa.Column("a `b\" 'c", sa.Unicode(50)))
blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary(65000)),
)
AWKWARD = [
    "a),(b",
    "),\n('",
    "\\'",
    "\\N",
    "\\.",
    "tab\tnew\nline\r\nend",
    '"double" `back` $$dollar$$ %percent%',
    "Ünïcödé ☃ 😀 \u202e",
    "INSERT INTO `audit` VALUES (1);\n",
    "DELIMITER ;;\n",
    " ",
]
BLOBS = [b"", b"\0", bytes(range(256)), b"'\\\0\n\r\x1a),(" * 100]
# Runs a function, and says when it comes to a certain one.
REPORTING = """
import sys
from app.backup import database, operations
phase = getattr(database, sys.argv[2])
def reported(*arguments):
    print("reached", flush=True)
    return phase(*arguments)
setattr(database, sys.argv[2], reported)
if sys.argv[1] == "create":
    operations.create_backup()
else:
    operations.restore_backup(None, lambda manifest: True)
"""


@pytest.fixture
def filled(live: sa.Engine) -> sa.Engine:
    """The live database with awkward content, and some megabytes."""
    metadata.create_all(live)
    noise = [os.urandom(60_000) for _ in range(64)]
    with live.begin() as connection:
        connection.execute(audit.insert(), [{"user_name": text} for text in AWKWARD])
        connection.execute(odd.insert(), [{odd.c[0].name: "x"}])
        connection.execute(blobs.insert(), [{"data": data} for data in [*BLOBS, *noise]])
    return live


def read_all(engine: sa.Engine) -> dict[str, list[Any]]:
    """Return all rows of all tables, in an order that does not matter."""
    with engine.connect() as connection:
        rows = {
            table.name: sorted(map(repr, connection.execute(table.select())))
            for table in metadata.sorted_tables
        }
    return {**rows, "notes": read(engine)}


def test_awkward_content_and_100_000_rows(filled: sa.Engine) -> None:
    with filled.begin() as connection:
        names = [{"user_name": f"{n} {AWKWARD[n % len(AWKWARD)]}"} for n in range(100_000)]
        connection.execute(audit.insert(), names)
    before = read_all(filled)
    create_backup()
    delete_all(filled)
    with filled.begin() as connection:
        connection.execute(audit.delete())
    operations.restore_backup(None, lambda manifest: True)
    assert read_all(filled) == before


@contextmanager
def writing(engine: sa.Engine) -> Iterator[list[int]]:
    """Add rows all the time, two at once, so that a torn copy shows."""
    done: list[int] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with engine.begin() as connection:
                connection.execute(audit.insert(), {"user_name": "one"})
                connection.execute(blobs.insert(), {"data": b"x" * 5000})
                connection.execute(audit.insert(), {"user_name": "two"})
            done.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def test_database_that_never_stands_still(filled: sa.Engine) -> None:
    with writing(filled) as done:
        for _ in range(5):
            before = len(done)
            made = create_backup()
            verify_backup()
            assert len(done) > before
            rows = {key.rpartition(".")[2]: value for key, value in made.tables.items()}
            added = rows["blobs"] - len(BLOBS) - 64
            assert rows["audit"] == len(AWKWARD) + 2 * added


@pytest.mark.parametrize("seed", range(24 if "FULL" in os.environ else 6))
def test_killed_at_any_moment(filled: sa.Engine, seed: int) -> None:
    """The live database is whole, and the next run removes what is left."""
    restored = read_all(filled)
    made = create_backup()
    with filled.begin() as connection:
        connection.execute(audit.insert(), {"user_name": "later"})
    untouched = read_all(filled)
    command, phase = [("create", "dump"), ("restore", "load"), ("restore", "swap")][seed % 3]
    variables = {
        "DATABASE_URL": settings.database.DATABASE_URL,
        "BACKUP_DIR": str(settings.backup.BACKUP_DIR),
    }
    with subprocess.Popen(
        [sys.executable, "-c", REPORTING, command, phase],
        cwd=PROJECT_ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reached\n"
        time.sleep(random.Random(seed).uniform(0, 0.2))
        process.kill()
    killed = int(time.time())

    def complete() -> bool:
        """The server may still be at work on what it was sent."""
        try:
            return read_all(filled) in (untouched, restored)
        except sa.exc.DBAPIError:
            return False

    wait_until(complete)
    assert files.read_manifest(made.file)
    create_backup(wait=30)
    wait_until(lambda: int(time.time()) > killed)  # The name of the old database has seconds.
    operations.restore_backup(made.file, lambda manifest: True)
    assert read_all(filled) == restored
    assert [*database.sides("verify"), *database.sides("restore")] == []
    assert not list(settings.backup.BACKUP_DIR.glob(".*"))
    assert read(filled) == TEXTS
