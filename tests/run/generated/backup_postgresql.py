"""Backups of PostgreSQL: hard schemas, and everything that was once lost or refused."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from app.backup import BackupError, create_backup, database, files, operations, verify_backup
from app.core.config.settings import settings
from tests.backup.schemas_postgresql import NEWER_SCHEMAS, SCHEMAS
from tests.servers.database import DATABASE_URL


def url_of(name: str, **changes: Any) -> str:
    """Return the URL of a database on the server of the tests."""
    url = sa.make_url(DATABASE_URL).set(database=name, **changes)
    return url.render_as_string(hide_password=False)


def sql(statements: str, name: str = "") -> list[Any]:
    """Run statements in the live database (or another) as a superuser; each is a transaction."""
    given = sa.make_url(url_of(name or database.name()))
    arguments = given.translate_connect_args(username="user", database="dbname")
    arguments |= {"client_encoding": "utf8", "autocommit": True}
    with psycopg.connect(**arguments) as connection:
        cursor = connection.execute(statements.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def new_database(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """A function that creates a database, to which the settings point then."""
    made: list[str] = []
    monkeypatch.setattr(settings.backup, "BACKUP_DIR", tmp_path / "backups")

    def create(options: str = "", name: str = "") -> str:
        made.append(name or f"backup_{os.getpid()}_{len(made)}")
        quoted = made[-1].replace('"', '""')
        sql(f'CREATE DATABASE "{quoted}" {options}', "postgres")
        monkeypatch.setattr(settings.database, "DATABASE_URL", url_of(made[-1]))
        return made[-1]

    yield create
    monkeypatch.setattr(settings.backup, "BACKUP_DATABASE_URL", None)
    for name in made:
        monkeypatch.setattr(settings.database, "DATABASE_URL", url_of(name))
        for kind in ("verify", "restore", "old"):
            for side in database.sides(kind):
                database.drop(side)
        database.drop(name)


@pytest.fixture
def filled(new_database: Callable[..., str]) -> str:
    """The name of a database with a table of 100 rows."""
    name = new_database()
    sql("CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n")
    return name


@pytest.fixture
def limited(filled: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backups are made by a role that is no superuser but owns the database."""
    sql(f"""CREATE ROLE limited LOGIN CREATEDB PASSWORD 'x'; ALTER TABLE t OWNER TO limited;
            ALTER SCHEMA public OWNER TO limited; ALTER DATABASE {filled} OWNER TO limited""")
    url = url_of(filled, username="limited", password="x")
    monkeypatch.setattr(settings.backup, "BACKUP_DATABASE_URL", url)
    yield
    for side in [*database.sides("old"), *database.sides("restore")]:
        database.drop(side)
    sql("REASSIGN OWNED BY limited TO test; DROP OWNED BY limited", filled)
    sql("DROP ROLE limited", "postgres")


def restore() -> str | None:
    return operations.restore_backup(None, lambda manifest: True)


def dumped(name: str, *options: str) -> str:
    """Return a whole database as pg_dump writes it."""
    parts = sa.make_url(url_of(name)).set(drivername="postgresql").render_as_string(False)
    command = ["pg_dump", *options, parts.replace(" ", "%20")]  # libpq 18 refuses a space
    done = subprocess.run(command, capture_output=True, check=True)
    lines = done.stdout.decode(errors="surrogateescape").splitlines()
    return "\n".join(line for line in lines if "restrict" not in line)


def check_restored_as_it_was(name: str) -> None:
    """Restore beside the live database, and where it is gone: all its properties come back."""
    before = dumped(name, "--create")
    create_backup()
    restore()
    assert dumped(name, "--create") == before
    for side in [*database.sides("old"), name]:
        database.drop(side)
    restore()  # with what the manifest says
    assert dumped(name, "--create") == before


def native_restore(backup: Path, name: str) -> None:
    """gunzip -c BACKUP | psql DATABASE"""
    url = sa.make_url(url_of(name))
    variables = {"PGPASSWORD": str(url.password), "BACKUP": str(backup), "DATABASE": name}
    options = f"-q -X -v ON_ERROR_STOP=1 -h {url.host} -p {url.port} -U {url.username}"
    command = f'gunzip -c "$BACKUP" | psql {options} "$DATABASE"'
    bash = ["bash", "-o", "pipefail", "-c", command]
    subprocess.run(bash, env=os.environ | variables, check=True)


def version() -> int:
    return int(sql("SHOW server_version_num", "postgres")[0][0]) // 10_000


@pytest.mark.parametrize("schema", [*SCHEMAS, *NEWER_SCHEMAS])
def test_round_trip(schema: str, new_database: Callable[..., str]) -> None:
    other, name = new_database(), new_database()  # The second is the live one.
    since, statements = NEWER_SCHEMAS.get(schema) or (0, SCHEMAS[schema])
    if version() < since:
        return
    sql(statements)
    before = dumped(name)
    path = create_backup().path
    native_restore(path, other)
    assert dumped(other) == before
    sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    restore()
    assert dumped(name) == before


def test_properties_of_the_database_come_back(new_database: Callable[..., str]) -> None:
    given = sa.make_url(DATABASE_URL).translate_connect_args(username="user", database="dbname")
    with psycopg.connect(**given | {"dbname": "postgres"}, autocommit=True) as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute("CREATE TABLESPACE elsewhere LOCATION ''")
    name = new_database(
        "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de' TABLESPACE elsewhere"
        " CONNECTION LIMIT 7"
    )
    for setting in (
        "work_mem TO '7MB'",
        'search_path TO "$user", public, "a b"',
        "role TO 'pg_monitor'",
        "default_transaction_read_only TO on",
        "my.own TO 'x; y'",
    ):
        sql(f"ALTER DATABASE {name} SET {setting}", "postgres")
    sql(
        f"""COMMENT ON DATABASE {name} IS 'a {{comment}}; ''of'' two
            lines'; REVOKE ALL ON DATABASE {name} FROM PUBLIC;
            GRANT CONNECT ON DATABASE {name} TO pg_monitor;
            ALTER ROLE test IN DATABASE {name} SET work_mem TO '8MB'""",
        "postgres",
    )
    check_restored_as_it_was(name)
    database.drop(name)
    sql("DROP TABLESPACE elsewhere", "postgres")


@pytest.mark.parametrize(("provider", "locale"), [("libc", "C"), ("builtin", "C.UTF-8")])
def test_locale_providers(new_database: Callable[..., str], provider: str, locale: str) -> None:
    if provider == "builtin" and version() < 17:
        return
    name = new_database(f"TEMPLATE template0 LOCALE_PROVIDER {provider} LOCALE '{locale}'")
    sql("CREATE TABLE t AS SELECT 'Ü' AS x; CREATE INDEX ON t (upper(x))")
    check_restored_as_it_was(name)


@pytest.mark.parametrize(
    ("encoding", "text"), [("LATIN1", "Üñï"), ("EUC_JP", "日本語"), ("SQL_ASCII", r"\xff")]
)
def test_databases_in_other_encodings(
    new_database: Callable[..., str], encoding: str, text: str
) -> None:
    name = new_database(f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    sql(f"CREATE TABLE t (x text); INSERT INTO t VALUES (E'{text}')")
    sql(f'CREATE TABLE "{text} 2" (x text)')
    before = dumped(name)
    create_backup()
    sql("DROP TABLE t")
    restore()
    assert dumped(name) == before


@pytest.mark.parametrize("name", ["a/b ü", 'Say "hi"', "x" * 60])
def test_odd_names(new_database: Callable[..., str], name: str) -> None:
    new_database(name=name)
    sql("CREATE TABLE t AS SELECT 1 AS n")
    create_backup()
    sql("DROP TABLE t")
    restore()
    assert sql("SELECT n FROM t") == [(1,)]


def test_rows_come_under_the_settings_of_the_database(new_database: Callable[..., str]) -> None:
    name = new_database()
    for setting in ("app.salt = 'pepper'", "timezone = 'Asia/Tokyo'"):
        sql(f"ALTER DATABASE {name} SET {setting}")
    sql("""CREATE FUNCTION salted(text) RETURNS text IMMUTABLE LANGUAGE sql
           AS 'SELECT $1 || current_setting(''app.salt'')';
           CREATE TABLE t (day text, salted text GENERATED ALWAYS AS (salted('salt and ')) STORED)""")
    sql("INSERT INTO t VALUES ('x')")
    sql(
        "CREATE MATERIALIZED VIEW m AS SELECT ('2026-01-01 20:00Z'::timestamptz)::date::text AS day"
    )
    create_backup()
    restore()
    assert sql("SELECT t.salted, m.day FROM t, m") == [("salt and pepper", "2026-01-02")]


def test_a_difference_stops_before_the_swap(filled: str) -> None:
    sql(f"CREATE ROLE leaving; GRANT CONNECT ON DATABASE {filled} TO leaving")
    create_backup()
    sql(f"REVOKE CONNECT ON DATABASE {filled} FROM leaving; DROP ROLE leaving", "postgres")
    database.drop(filled)  # Now the manifest says what is wanted, and the role is missing.
    with pytest.raises(BackupError, match="not swapped") as caught:
        restore()
    (side,) = database.sides("restore")
    url = sa.make_url(DATABASE_URL)
    variables = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username}
    variables |= {"PGPASSWORD": url.password}
    environment = os.environ | {key: str(text) for key, text in variables.items()}
    message = str(caught.value)
    assert "leaving" in message
    for line in message.partition("run:")[2].strip().splitlines():
        subprocess.run(["bash", "-c", line], env=environment, check=True, capture_output=True)
    assert sql("SELECT count(*) FROM t") == [(100,)]
    assert side not in database.sides("restore")


def test_a_subscription_is_named_and_stops_the_swap(filled: str) -> None:
    sql("CREATE SUBSCRIPTION s CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)")
    assert "subscription s" in create_backup().notes[0]
    verify_backup()
    with pytest.raises(BackupError, match="subscription s"):
        restore()
    sql("ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s")
    restore()


@pytest.mark.usefixtures("limited")
def test_limits_of_the_role_stop_nothing() -> None:
    sql("ALTER ROLE limited SET statement_timeout = '1ms'")
    sql("ALTER ROLE limited SET default_transaction_read_only = on")
    assert create_backup().notes == []
    verify_backup()
    assert restore()


@pytest.mark.usefixtures("limited")
def test_notes_name_what_a_plain_role_cannot_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    sql(
        "CREATE EXTENSION pageinspect; CREATE TABLE of_another (n int); GRANT ALL ON of_another TO limited"
    )
    sql("ALTER ROLE limited NOCREATEDB")
    notes = " ".join(create_backup().notes)
    for word in ("pageinspect", "role test", "CREATEDB", "BACKUP_DATABASE_URL"):
        assert word in notes
    with pytest.raises(BackupError, match="permission denied to create database"):
        verify_backup()
    sql("ALTER ROLE limited CREATEDB")
    with pytest.raises(BackupError, match="pageinspect"):
        verify_backup()
    assert database.sides("verify") == []
    monkeypatch.setattr(settings.backup, "BACKUP_DATABASE_URL", None)
    verify_backup()


def test_url_of_another_database_is_refused(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = sa.make_url(settings.database.DATABASE_URL)
    for wrong in (url.set(database="postgres").render_as_string(False), "db.example.com"):
        monkeypatch.setattr(settings.backup, "BACKUP_DATABASE_URL", wrong)
        with pytest.raises(BackupError, match="BACKUP_DATABASE_URL must be"):
            create_backup()


def test_a_function_that_needs_a_search_path_is_named(filled: str) -> None:
    sql("""CREATE FUNCTION f(n int) RETURNS bigint LANGUAGE sql
           AS 'SELECT count(*) FROM t WHERE t.n < $1'; CREATE TABLE u (n int CHECK (f(n) >= 0)); INSERT INTO u VALUES (4711)""")
    create_backup()
    with pytest.raises(BackupError, match='CONTEXT:  SQL function "f"') as caught:
        verify_backup()
    assert "4711" not in str(caught.value)  # A message holds no rows.


def test_event_trigger_that_writes_rows(filled: str) -> None:
    has_logins = version() >= 17
    sql(f"""CREATE TABLE events (at timestamptz);
           CREATE FUNCTION event() RETURNS event_trigger LANGUAGE plpgsql
           AS $$ BEGIN INSERT INTO public.events VALUES (now()); END $$;
           CREATE EVENT TRIGGER e ON {"login" if has_logins else "ddl_command_end"}
           EXECUTE FUNCTION event()""")
    create_backup()
    verify_backup()
    restore()


def test_many_tables_and_large_objects(filled: str) -> None:
    sql("""DO $$ BEGIN FOR n IN 1..2100 LOOP
        EXECUTE format('CREATE TABLE many_%s (id int PRIMARY KEY, x int UNIQUE)', n);
        IF n % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$""")
    sql("SELECT lo_from_bytea(0, 'x') FROM generate_series(1, 5000)")
    assert len(create_backup().tables) == 2101
    verify_backup()


def fake_program(folder: Path, name: str, version: str, edit: str = "") -> None:
    real = which(name, path=os.environ["PATH"].replace(f"{folder}:", ""))
    (folder / name).write_text(
        f'#!/bin/bash\nif [ "$1" = --version ]; then echo "{name} (PostgreSQL) {version}"; exit; fi\n'
        f'set -o pipefail; {real} "$@" {edit}\n'
    )
    (folder / name).chmod(0o755)


def test_versions_of_pg_dump(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    new = "/^SET transaction_timeout/d; 0,/^SET lock_timeout/s//SET transaction_timeout = 0;\\n&/"
    fake_program(tmp_path, "pg_dump", "99.1", f"| sed '{new}'")
    assert create_backup().versions["tool"] == "99.1"
    verify_backup()
    fake_program(tmp_path, "pg_dump", "9.6.24")
    with pytest.raises(BackupError, match="older than the server"):
        create_backup()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackupError, match="pg_dump cannot be run"):
        create_backup()


def test_names_that_begin_alike(new_database: Callable[..., str]) -> None:
    """Databases of one server with a common folder."""
    names = [new_database(name="x" * 50 + ending) for ending in ("", "_backup", "_one")]
    for name in names:
        settings.database.DATABASE_URL = url_of(name)
        sql(f"CREATE TABLE t AS SELECT '{name}' AS name")
        create_backup()
    for name in names:
        settings.database.DATABASE_URL = url_of(name)
        assert len(files.list_backups(name)) == 1
        restore()
        assert sql("SELECT name FROM t") == [(name,)]
        assert len(database.sides("old")) == 1
