"""Backups of SQLite: hard schemas, and everything that was once lost or refused."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import backup
from app.backup import BackupConfig, create_backup, restore_backup, verify_backup
from tests.backup import dialect_sqlite as dialect

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
    "page size": "PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM; CREATE TABLE p (n);"
    "INSERT INTO p VALUES (zeroblob(100000)); DELETE FROM p",
}


def path_of(url: str) -> Path:
    return Path(str(sa.make_url(url).database))


def content(path: Path) -> list[object]:
    """Return all that a dump of a database shows, and its pragmas."""
    with closing(sqlite3.connect(path)) as db:
        rows = [
            db.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")
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
def test_round_trip(schema: str, new_url: Callable[[], str], tmp_path: Path) -> None:
    config = BackupConfig(new_url(), tmp_path / "backups")
    with closing(sqlite3.connect(path_of(config.url))) as db:
        db.executescript(SCHEMAS[schema])
    before = content(path_of(config.url))
    made = Path(create_backup(config)["path"])
    verify_backup(config)
    other = new_url()
    dialect.native_restore(made, other)
    assert content(path_of(other)) == before
    with closing(sqlite3.connect(path_of(config.url))) as db:
        db.executescript("CREATE TABLE later (n); INSERT INTO later VALUES (1)")
    kept = restore_backup(config)["kept_as"]
    assert content(path_of(config.url)) == before
    assert "later" in str(content(Path(str(kept))))


def test_another_page_size_is_refused(new_url: Callable[[], str], tmp_path: Path) -> None:
    config = BackupConfig(new_url(), tmp_path / "backups")
    live = path_of(config.url)
    with closing(sqlite3.connect(live)) as db:
        db.executescript(SCHEMAS["rowids"])
    create_backup(config)
    with closing(sqlite3.connect(live)) as db:
        db.executescript(SCHEMAS["page size"])
    with pytest.raises(backup.RefusedError, match="move the live file away"):
        restore_backup(config)
    with closing(sqlite3.connect(live)) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (2,)
    dialect.drop_database(config.url)
    restore_backup(config)
    with closing(sqlite3.connect(live)) as db:
        assert db.execute("SELECT rowid, name FROM t ORDER BY 1").fetchall() == [
            (1, "a"),
            (77, "c"),
        ]


def test_collations_and_functions_of_the_application(
    new_url: Callable[[], str], tmp_path: Path
) -> None:
    config = BackupConfig(new_url(), tmp_path / "backups")
    with closing(sqlite3.connect(path_of(config.url))) as db:
        db.create_collation("backwards", lambda a, b: (a < b) - (a > b))
        db.create_function("ours", 1, lambda value: len(value), deterministic=True)
        db.executescript(
            "CREATE TABLE t (name TEXT COLLATE backwards PRIMARY KEY, CHECK (ours(name) > 0));"
            "CREATE INDEX i ON t (ours(name)); CREATE INDEX j ON t (name);"
            "INSERT INTO t VALUES ('a'), ('b'), ('c'), ('B')"
        )
    assert create_backup(config)["tables"] == {"t": 4}
    verify_backup(config)
    restore_backup(config)
    assert create_backup(config)["tables"] == {"t": 4}
