"""Faults of backups that were found on version 0.2.0, through the command line and SQL only."""

import ast
import gzip
import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bake
from tests.harness import Stack, find_program

StartStack = Callable[[str], AbstractContextManager[Stack]]

# Runs each argument as a statement of its own, and prints the rows of the last one.
SQL = """
import os, sys, sqlalchemy as sa
engine = sa.create_engine(os.environ["DATABASE_URL"], isolation_level="AUTOCOMMIT")
with engine.connect() as connection:
    for statement in sys.argv[1:]:
        result = connection.exec_driver_sql(statement)
print([tuple(map(str, row)) for row in result] if result.returns_rows else [])
"""
# Leaves a transaction open, with one row that is not committed.
OPEN_TRANSACTION = """
import os, signal, sqlalchemy as sa
with sa.create_engine(os.environ["DATABASE_URL"]).connect() as connection:
    connection.exec_driver_sql("INSERT INTO t VALUES (3)")
    print("inserted")
    signal.pause()
"""


@pytest.fixture
def start_stack(installed: Bake, tmp_path: Path) -> StartStack:
    """A function that starts a project with backups and its database server, nothing else."""

    @contextmanager
    def start_stack(database: str) -> Iterator[Stack]:
        project = installed(database=database, use_celery=False, use_redis=False, use_docker=False)
        with Stack(project, tmp_path / "stack") as stack:
            yield stack

    return start_stack


def sql(stack: Stack, *statements: str) -> list[tuple[str, ...]]:
    """Run statements in the live database and return the rows of the last one, as text."""
    rows: list[tuple[str, ...]] = ast.literal_eval(stack.python(SQL, *statements))
    return rows


def backup(stack: Stack, *arguments: str, **environment: str) -> str:
    """Run ``python -m app.backup`` and return what it prints; a wait ends after two minutes."""
    return stack.run("python", "-m", "app.backup", *arguments, timeout=120, **environment)


def create(stack: Stack, **environment: str) -> dict[str, Any]:
    """Make a backup and return its manifest."""
    manifest: dict[str, Any] = json.loads(backup(stack, "create", **environment))
    return manifest


def test_create_does_not_wait_for_open_transactions(start_stack: StartStack) -> None:
    with start_stack("mysql") as stack:
        trigger = "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.n = NEW.n"
        sql(stack, "CREATE TABLE t (n INT)", trigger, "INSERT INTO t VALUES (1), (2)")
        python = stack.project / ".venv/bin/python"
        stack.start("transaction", python, "-c", OPEN_TRANSACTION)
        stack.wait_for_log("transaction", "inserted")
        assert create(stack)["tables"]["t"] == 2
        backup(stack, "verify")


def test_create_accepts_a_view_whose_definer_is_gone(start_stack: StartStack) -> None:
    with start_stack("mysql") as stack:
        sql(
            stack,
            "CREATE TABLE t (n INT)",
            "INSERT INTO t VALUES (7)",
            "CREATE USER former@localhost",
            "CREATE DEFINER = former@localhost VIEW v AS SELECT n FROM t",
            "DROP USER former@localhost",
        )
        file = Path(stack.environment["BACKUP_DIR"]) / create(stack)["file"]
        dump = gzip.decompress(file.read_bytes())
        sql(stack, "DROP VIEW v", "DROP TABLE t")
        client = find_program("mariadb", "mysql", install="apt install mariadb-client")
        options = ["-h127.0.0.1", f"-P{stack.database_port}", "-uapp", "-psecret", "app"]
        subprocess.run([client, "--no-defaults", *options], input=dump, check=True)
        assert sql(stack, "SELECT n FROM t") == [("7",)]
        views = "SELECT table_name FROM information_schema.views WHERE table_schema = 'app'"
        assert sql(stack, views) == [("v",)]


# A word, a day and a text that depend on settings of the database.
DEPENDENT = [
    "ALTER DATABASE app SET default_text_search_config = 'german'",
    "ALTER DATABASE app SET timezone = 'Asia/Tokyo'",
    "ALTER DATABASE app SET app.salt = 'pepper'",
    "CREATE FUNCTION words(text) RETURNS tsvector IMMUTABLE LANGUAGE sql"
    " AS 'SELECT to_tsvector($1)'",
    "CREATE FUNCTION salted(text) RETURNS text IMMUTABLE LANGUAGE sql"
    " AS 'SELECT $1 || current_setting(''app.salt'')'",
]
DEPENDENT_TABLE = [
    "CREATE TABLE t (body text, moment timestamptz,"
    " words tsvector GENERATED ALWAYS AS (words(body)) STORED,"
    " salted text GENERATED ALWAYS AS (salted('salt and ')) STORED)",
    "INSERT INTO t VALUES ('viele Häuser', '2026-01-01 20:00:00Z')",
    "CREATE MATERIALIZED VIEW days AS SELECT moment::date AS day FROM t",
]
DEPENDENT_ROWS = "SELECT words @@ to_tsquery('Haus'), day, salted FROM t, days"


def test_rows_are_restored_under_the_settings_of_the_database(start_stack: StartStack) -> None:
    expected = [("True", "2026-01-02", "salt and pepper")]
    with start_stack("postgresql") as stack:
        sql(stack, *DEPENDENT)
        sql(stack, *DEPENDENT_TABLE)  # in a new session, which has the settings
        assert sql(stack, DEPENDENT_ROWS) == expected
        create(stack)
        backup(stack, "verify")
        sql(stack, "TRUNCATE t")
        backup(stack, "restore", "--yes")
        assert sql(stack, DEPENDENT_ROWS) == expected
    with start_stack("postgresql") as other_server:
        backup(other_server, "restore", "--yes")
        assert sql(other_server, DEPENDENT_ROWS) == expected


def put_into_store(store: Path, statement: str) -> None:
    """Add a newer backup, which runs a statement and otherwise holds nothing, to the store."""
    genuine = next(store.glob("*.json"))
    text = genuine.read_text()
    file = str(json.loads(text)["file"])
    forged = re.sub(r"\d{8}_\d{6}", "20990101_000000", file)
    dump = f"\\restrict key\n{statement};\n\\unrestrict key\n".encode()
    data = gzip.compress(dump)
    checksum = hashlib.sha256(data).hexdigest()
    manifest = json.loads(text.replace(file, forged)) | {
        "sequence": 10**15,
        "created_at": "2099-01-01T00:00:00Z",
        "size": len(data),
        "dump_size": len(dump),
        "sha256": checksum,
        "copy_sha256": checksum,
        "tables": {},
        "revision": None,
    }
    (store / forged).write_bytes(data)
    (store / f"{forged}.json").write_text(json.dumps(manifest))


def test_verify_runs_nothing_from_the_store_while_there_is_a_local_backup(
    start_stack: StartStack, tmp_path: Path
) -> None:
    with start_stack("postgresql") as stack:
        store = tmp_path / "store"
        store.mkdir()
        sql(stack, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
        made = create(stack, BACKUP_COPY_URL=store.as_uri())
        put_into_store(store, "DROP DATABASE app WITH (FORCE)")
        verified = backup(stack, "verify", BACKUP_COPY_URL=store.as_uri())
        assert sql(stack, "SELECT n FROM t") == [("7",)]
        assert made["file"] in verified


def test_a_copy_that_is_not_encrypted_is_refused_where_copies_are_encrypted(
    start_stack: StartStack, tmp_path: Path
) -> None:
    with start_stack("sqlite") as stack:
        generate = (
            "import pyrage; key = pyrage.x25519.Identity.generate(); print(key, key.to_public())"
        )
        private, public = stack.python(generate).split()
        (tmp_path / "key.txt").write_text(private)
        encrypted = {"BACKUP_AGE_RECIPIENTS": public}
        new_machine = encrypted | {
            "BACKUP_DIR": str(tmp_path / "new"),
            "BACKUP_AGE_IDENTITY_FILE": str(tmp_path / "key.txt"),
        }
        plain, secret = tmp_path / "plain", tmp_path / "secret"
        plain.mkdir()
        secret.mkdir()
        create(stack, BACKUP_COPY_URL=plain.as_uri())
        with pytest.raises(AssertionError, match="not encrypted"):
            backup(stack, "verify", BACKUP_COPY_URL=plain.as_uri(), **new_machine)
        assert list((tmp_path / "new").glob("*.gz")) == []
        create(stack, BACKUP_COPY_URL=secret.as_uri(), **encrypted)
        backup(stack, "verify", BACKUP_COPY_URL=secret.as_uri(), **new_machine)
