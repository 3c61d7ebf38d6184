"""Backups of SQLite: hard schemas, other processes, damage, and all that was once lost or refused."""

import gzip
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from app.backup import database
from app.backup.errors import BackupError
from app.backup.operations import create_backup, drop_old, restore_backup, verify_backup
from app.core.config.settings import settings
from tests.servers import wait_until

SCHEMAS = {
    "types": "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB, c REAL, d NUMERIC, e, f TEXT) ;"
    "INSERT INTO t VALUES (1, x'00ff', 1e308, '1.50', NULL, 'ü'), (-5, '', -0.0, 'x', x'', '')",
    "rowids": "CREATE TABLE t (name TEXT); INSERT INTO t VALUES ('a'), ('b'), ('c');"
    "DELETE FROM t WHERE name = 'b'; UPDATE t SET rowid = 77 WHERE name = 'c'",
    "without rowid": "CREATE TABLE t (k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO t VALUES ('k', 1)",
    "strict": "CREATE TABLE t (n INT, s TEXT, CHECK (n > 0)) STRICT; INSERT INTO t VALUES (1, 'x')",
    "generated": "CREATE TABLE t (n INT, twice INT AS (n * 2) STORED, three AS (n * 3));"
    "CREATE INDEX i ON t (three) WHERE n > 1; INSERT INTO t (n) VALUES (1), (2)",
    "programs": "CREATE TABLE t (n); CREATE TABLE audit (n); CREATE VIEW v AS SELECT * FROM t;"
    "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO audit VALUES (new.n); END;"
    "CREATE TRIGGER iv INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.n); END;"
    "INSERT INTO v VALUES (1)",
    "full text": "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('a quick fox')",
    "rtree": "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES (1, 0, 9)",
    "foreign keys": "CREATE TABLE a (id INTEGER PRIMARY KEY, b REFERENCES b DEFERRABLE INITIALLY DEFERRED);"
    "CREATE TABLE b (id INTEGER PRIMARY KEY AUTOINCREMENT, a REFERENCES a);"
    "INSERT INTO b VALUES (100, 1); INSERT INTO a VALUES (1, 100); DELETE FROM b",
    "names": """CREATE TABLE "a b" ("x`y" INT, "select" INT); INSERT INTO "a b" VALUES (1, 2)""",
    "pragmas": "PRAGMA user_version = 42; PRAGMA application_id = 7; CREATE TABLE t (n)",
    "page size": "PRAGMA page_size = 1024; VACUUM; CREATE TABLE p (n);"
    "INSERT INTO p VALUES (zeroblob(100000)); DELETE FROM p",
    "write-ahead log": "PRAGMA journal_mode = WAL; CREATE TABLE t (n); INSERT INTO t VALUES (1)",
}
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
def live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The path of the database, which does not exist yet."""
    path = tmp_path / "data" / "it's live.db"
    path.parent.mkdir()
    monkeypatch.setattr(settings.database, "DATABASE_URL", f"sqlite:///{path}")
    monkeypatch.setattr(settings.backup, "BACKUP_DIR", tmp_path / "backups")
    return path


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
        yield db


def run(path: Path, script: str) -> None:
    with connect(path) as db:
        db.executescript(script)


def restore() -> str | None:
    return restore_backup(None, lambda manifest: True)


def files() -> list[str]:
    """Return the names of the files that look like backups."""
    return [path.name for path in settings.backup.BACKUP_DIR.glob("*")]


def content(path: Path) -> list[object]:
    """Return all that a dump of a database shows, and its pragmas."""
    with connect(path) as db:
        rows = [
            db.execute(f"PRAGMA {name}").fetchone()
            for name in ("user_version", "application_id", "page_size")
        ]
        names = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%WITHOUT%'"
        )
        ids = []
        for (name,) in names.fetchall():
            quoted = name.replace('"', '""')
            try:
                ids.append(db.execute(f'SELECT rowid FROM "{quoted}" ORDER BY 1').fetchall())
            except sqlite3.OperationalError:  # a shadow table without rowid
                continue
        return [*rows, *ids, *db.iterdump()]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_round_trip(schema: str, live: Path, tmp_path: Path) -> None:
    run(live, SCHEMAS[schema])
    live.chmod(0o640)
    before = content(live)
    made = create_backup()
    assert made.path.stat().st_mode & 0o777 == 0o600
    verify_backup()
    other = tmp_path / "other.db"
    other.write_bytes(gzip.decompress(made.path.read_bytes()))
    assert content(other) == before
    run(live, "CREATE TABLE later (n); INSERT INTO later VALUES (1)")
    kept = restore()
    assert content(live) == before
    assert live.stat().st_mode & 0o777 == 0o640
    assert "later" in str(content(Path(str(kept))))
    # Nothing else is left.
    assert len(list(live.parent.glob("[!.]*"))) == 2
    assert len(files()) == 2


def test_collations_and_functions_of_the_application(live: Path) -> None:
    with connect(live) as db:
        for collation in ("backwards", "de-DE", "with space", 'quo"te', "ignore(case)"):
            db.create_collation(collation, lambda a, b: (a < b) - (a > b))
            quoted = '"' + collation.replace('"', '""') + '"'
            table = '"' + f"t {collation}".replace('"', '""') + '"'
            db.execute(f"CREATE TABLE {table} (name TEXT COLLATE {quoted} PRIMARY KEY)")
            db.execute(f"INSERT INTO {table} VALUES ('ä'), ('b'), ('B')")
        db.create_function("ours", 1, lambda value: len(value), deterministic=True)
        db.executescript(
            "CREATE TABLE t (name TEXT, n AS (ours(name)), CHECK (ours(name) > 0));"
            "CREATE INDEX i ON t (ours(name)); INSERT INTO t VALUES ('a'), ('bb')"
        )
    before = create_backup().tables
    assert sorted(before.values()) == [2, 3, 3, 3, 3, 3]
    verify_backup()
    restore()
    assert create_backup().tables == before


def test_rows_that_a_rule_no_longer_allows(live: Path) -> None:
    with connect(live) as db:
        db.execute("CREATE TABLE codes (expires_at TEXT CHECK (expires_at > current_timestamp))")
        db.execute("CREATE TABLE t (n)")
        db.execute("INSERT INTO t VALUES (NULL)")
        db.execute("PRAGMA ignore_check_constraints = ON")  # It was inserted long ago.
        db.execute("INSERT INTO codes VALUES ('2020-01-01 00:00:00')")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE t (n NOT NULL)' WHERE name = 't'")
    create_backup()
    verify_backup()
    run(live, "DELETE FROM codes")
    restore()
    with connect(live) as db:
        assert db.execute("SELECT * FROM codes").fetchall() == [("2020-01-01 00:00:00",)]


def test_not_torn_by_a_checkpoint_of_another_process(live: Path, tmp_path: Path) -> None:
    with connect(live) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("CREATE TABLE accounts (name, balance)")
        db.execute("INSERT INTO accounts VALUES ('a', 100), ('b', 0)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("UPDATE accounts SET balance = 100 - balance")  # Is in the log only.
        with subprocess.Popen(
            [sys.executable, "-c", CHECKPOINT, f"{live}-shm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as checkpoint:
            assert checkpoint.stdout is not None
            assert checkpoint.stdout.readline() == "locked\n"
            made = create_backup()
            checkpoint.communicate()
    other = tmp_path / "other.db"
    other.write_bytes(gzip.decompress(made.path.read_bytes()))
    with connect(other) as db:
        assert db.execute("SELECT * FROM accounts").fetchall() == [("a", 0), ("b", 100)]
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_writer_that_never_stops(live: Path) -> None:
    """Every state that a backup holds is one that was committed."""
    run(live, "PRAGMA journal_mode = WAL; CREATE TABLE a (n, pad); CREATE TABLE b (n)")
    stop, written = threading.Event(), [0]

    def write() -> None:
        with connect(live) as db:
            while not stop.is_set():
                insert = "INSERT INTO a VALUES (1, zeroblob(20000)); INSERT INTO b VALUES (1)"
                db.executescript(f"BEGIN IMMEDIATE; {insert}; COMMIT")
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                written[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(10):
            before = written[0]
            made = create_backup()
            assert made.tables["a"] == made.tables["b"]
            verify_backup()
            wait_until(lambda seen=before: written[0] > seen)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_locked_database_ends_the_wait(
    live: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT", 0.5)
    run(live, f"PRAGMA journal_mode = {mode}; CREATE TABLE t (n); INSERT INTO t VALUES (1)")
    with connect(live) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(BackupError, match="locked"):
            create_backup()
        db.execute("ROLLBACK")
    assert files() == []
    assert create_backup().tables == {"t": 1}


def test_restore_beside_a_running_application_is_refused(live: Path) -> None:
    run(live, "PRAGMA journal_mode = WAL; CREATE TABLE t (n); INSERT INTO t VALUES (1)")
    create_backup()
    with connect(live) as application:
        application.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(BackupError, match="stop the application"):
            restore()
        application.execute("INSERT INTO t VALUES (3)")
        assert application.execute("SELECT count(*) FROM t").fetchone() == (3,)
    assert list(live.parent.glob("*restore*")) == []
    kept = Path(str(restore()))
    with connect(live) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (1,)
    with connect(kept) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)
    assert drop_old(lambda name: True) == [str(kept)]
    assert not kept.exists()


def test_a_log_without_its_file_is_not_read_into_a_restored_one(live: Path) -> None:
    run(live, "PRAGMA journal_mode = WAL; CREATE TABLE t (n); INSERT INTO t VALUES (1)")
    create_backup()
    live.rename(live.with_name("damaged.db"))
    log = live.with_name(f"{live.name}-wal")
    log.write_bytes(b"the log of the damaged file")
    with pytest.raises(BackupError, match="-wal"):
        restore()
    assert not live.exists()
    log.unlink()
    assert restore() is None
    with connect(live) as db:
        assert db.execute("SELECT n FROM t").fetchall() == [(1,)]


def damage_a_page(live: Path) -> None:
    with connect(live) as db:
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 't'").fetchone()[0]
    with live.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"damaged!")


def damage_the_header(live: Path) -> None:
    with live.open("r+b") as file:
        file.write(b"damaged!")


def cut_in_half(live: Path) -> None:
    os.truncate(live, live.stat().st_size // 2 // 4096 * 4096)


def empty(live: Path) -> None:
    os.truncate(live, 0)


def make_larger_than_the_disk(live: Path) -> None:
    pages = shutil.disk_usage(live.parent).free // 4096 + 1000
    with live.open("r+b") as file:
        file.truncate(pages * 4096)
        file.seek(28)  # The number of pages: https://www.sqlite.org/fileformat.html
        file.write(pages.to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_a_page, "damaged|malformed"),
        (damage_the_header, "not a database"),
        (cut_in_half, "damaged|malformed"),
        (empty, "is empty"),
        (make_larger_than_the_disk, " MB "),
        (Path.unlink, "no SQLite file"),
    ],
)
def test_a_bad_file_is_not_backed_up(
    live: Path, damage: Callable[[Path], None], message: str
) -> None:
    run(live, "CREATE TABLE t (n); INSERT INTO t VALUES (zeroblob(100000))")
    damage(live)
    with pytest.raises(BackupError, match=message) as caught:
        create_backup()
    assert "\n" not in str(caught.value)
    assert files() == []


def test_a_damaged_file_is_replaced_once_it_is_moved_away(live: Path) -> None:
    run(live, "CREATE TABLE t (n); INSERT INTO t VALUES (1)")
    create_backup()
    damage_the_header(live)
    with pytest.raises(BackupError, match="move it away"):
        restore()
    live.unlink()
    restore()
    with connect(live) as db:
        assert db.execute("SELECT n FROM t").fetchall() == [(1,)]


if os.geteuid() == 0:  # Others may not change an owner.

    def test_the_owner_stays(live: Path) -> None:
        run(live, "CREATE TABLE t (n)")
        os.chown(live, 65534, 65534)
        create_backup()
        restore()
        assert (live.stat().st_uid, live.stat().st_gid) == (65534, 65534)
