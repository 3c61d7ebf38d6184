"""Backups of PostgreSQL: hard schemas, and everything that was once lost or refused."""

import gzip
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from app import backup
from app.backup import (
    BackupConfig,
    create_backup,
    folder,
    postgresql,
    restore_backup,
    verify_backup,
)
from tests.backup import dialect_postgresql as dialect

SCHEMAS = {
    "types": """
        CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s');
        CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE TYPE span AS RANGE (subtype = float8);
        CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), m mood, p pair, n positive,
            s span, a int[][], j jsonb, x xml, i inet, ts tstzrange, b bytea, bits bit(5), v tsvector);
        INSERT INTO t (m, p, n, s, a, j, i, b, bits, v) SELECT 'it''s', ROW(n, E'\\\\.\\n\\t')::pair, n,
            span(n, n + 1.5), ARRAY[[n, 2], [3, NULL]], jsonb_build_object('k', n), '10.0.0.1/8',
            decode(md5(n::text), 'hex'), B'10101', to_tsvector('a quick fox') FROM generate_series(1, 500) n;
        INSERT INTO t DEFAULT VALUES;""",
    "partitions": """
        CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY, day date, kind text, PRIMARY KEY (id, day, kind))
            PARTITION BY RANGE (day);
        CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')
            PARTITION BY LIST (kind);
        CREATE TABLE log_1_a PARTITION OF log_1 FOR VALUES IN ('a');
        CREATE TABLE log_1_z PARTITION OF log_1 DEFAULT;
        CREATE TABLE log_2 PARTITION OF log DEFAULT;
        CREATE TABLE parent (id int); CREATE TABLE child (extra text) INHERITS (parent);
        INSERT INTO log (day, kind) SELECT '2024-06-01'::date + n, chr(97 + n % 3)
            FROM generate_series(1, 900) n;
        INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'x');""",
    "cycles": """
        CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int);
        ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
        ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a;
        CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE);
        BEGIN; INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); COMMIT;
        INSERT INTO tree VALUES (2, NULL); INSERT INTO tree VALUES (1, 2), (3, 1);""",
    "programs": """
        CREATE TABLE t (id serial PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
        CREATE TABLE audit (n int);
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
        -- COPY t FROM stdin;
        INSERT INTO audit VALUES (NEW.n); RETURN NEW; END $f$;
        CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
        CREATE PROCEDURE p() LANGUAGE sql AS 'DELETE FROM audit';
        CREATE FUNCTION body(x int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT x + 1; END;
        CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
        CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
        CREATE VIEW v AS SELECT id, body(n) FROM t; CREATE VIEW v2 AS SELECT * FROM v WITH CHECK OPTION;
        CREATE RULE r AS ON DELETE TO t DO ALSO INSERT INTO audit VALUES (OLD.n);
        CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM v2;
        INSERT INTO t (n) SELECT generate_series(1, 100); REFRESH MATERIALIZED VIEW m;
        ALTER TABLE t DISABLE TRIGGER tr;""",
    "names": '''
        CREATE SCHEMA "Odd ""Schema""";
        CREATE TABLE "Odd ""Schema"".t"(id int); CREATE TABLE "Odd ""Schema"""."t"(id int);
        CREATE TABLE "%s {x} \\! ls"("select" int, "a b" text DEFAULT E'\\\\! ls');
        INSERT INTO "%s {x} \\! ls" VALUES (1, E'\\\\! touch /tmp/x\\n\\\\.\\n\\\\unrestrict x');
        CREATE TABLE public."ünï"(id int); INSERT INTO "ünï" VALUES (1);''',
    "policies": """
        CREATE TABLE t (id int, owner name DEFAULT current_user);
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON t USING (owner = current_user);
        GRANT SELECT ON t TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
        COMMENT ON TABLE t IS 'it''s \\ a comment'; INSERT INTO t VALUES (1), (2);""",
    "indexes": """
        CREATE EXTENSION btree_gist; CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore; CREATE EXTENSION citext;
        CREATE TABLE t (id int, name citext, h hstore, span tsrange,
            EXCLUDE USING gist (id WITH =, span WITH &&), UNIQUE NULLS NOT DISTINCT (name));
        CREATE INDEX ON t (lower(name)) WHERE id > 5; CREATE INDEX ON t USING gin (name gin_trgm_ops);
        CREATE STATISTICS st (dependencies) ON id, name FROM t; ALTER TABLE t CLUSTER ON t_name_key;
        INSERT INTO t SELECT n, 'Name ' || n, hstore('a', n::text), tsrange(now()::timestamp, NULL)
            FROM generate_series(1, 200) n;""",
    "large objects": """
        SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 100), 'hex')) FROM generate_series(1, 300) n;
        CREATE TABLE t (id int);""",
    "unlogged and sequences": """
        CREATE UNLOGGED TABLE u (id int); INSERT INTO u VALUES (1);
        CREATE SEQUENCE s START -7 INCREMENT -3 MINVALUE -100 CYCLE; SELECT nextval('s'), nextval('s');
        CREATE TABLE t (id int DEFAULT nextval('s')); ALTER SEQUENCE s OWNED BY t.id;
        INSERT INTO t DEFAULT VALUES; CREATE SEQUENCE never;""",
    "collations and publications": """
        CREATE COLLATION numeric_order (provider = icu, locale = 'en-u-kn-true');
        CREATE TABLE t (name text COLLATE numeric_order PRIMARY KEY);
        INSERT INTO t VALUES ('a10'), ('a9'), ('Ü'); CREATE PUBLICATION p FOR TABLE t;
        CREATE TEXT SEARCH CONFIGURATION c (COPY = simple); CREATE CAST (text AS int) WITH INOUT;""",
}


def connect(url: str) -> psycopg.Connection:
    """Connect to a database; each statement is a transaction."""
    given = sa.make_url(url).translate_connect_args(username="user", database="dbname")
    return psycopg.connect(**given, autocommit=True)


@pytest.fixture
def sql() -> Callable[[str, str], list[Any]]:
    """A function that runs statements in a database as superuser."""

    def run(url: str, statements: str) -> list[Any]:
        with connect(url) as conn:
            cursor = conn.execute(statements.encode())
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def filled(new_url: Callable[[], str], tmp_path: Path, sql: Callable[..., Any]) -> BackupConfig:
    """A small database."""
    url = new_url()
    sql(url, "CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n")
    return BackupConfig(url, tmp_path / "backups")


@pytest.fixture
def limited(filled: BackupConfig, sql: Callable[..., Any]) -> Iterator[BackupConfig]:
    """The same, with a role that is no superuser but owns the database."""
    url = sa.make_url(filled.url)
    sql(filled.url, "CREATE ROLE limited LOGIN CREATEDB PASSWORD 'x'")
    sql(filled.url, f'ALTER DATABASE "{url.database}" OWNER TO limited')
    sql(filled.url, "ALTER TABLE t OWNER TO limited")
    yield replace(filled, url=url.set(username="limited", password="x").render_as_string(False))
    dialect.drop_database(filled.url)
    sql(str(url.set(database="postgres").render_as_string(False)), "DROP ROLE limited")


def dumped(url: str) -> str:
    """Return the whole database as pg_dump writes it."""
    parts = sa.make_url(url).set(drivername="postgresql").render_as_string(False)
    parts = parts.replace(" ", "%20")  # libpq 18 refuses a space
    done = subprocess.run(["pg_dump", parts], capture_output=True, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if "restrict" not in line)


def name_of(config: BackupConfig) -> str:
    return str(sa.make_url(config.url).database)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_round_trip(
    schema: str, new_url: Callable[[], str], tmp_path: Path, sql: Callable[..., Any]
) -> None:
    config = BackupConfig(new_url(), tmp_path / "backups")
    sql(config.url, SCHEMAS[schema])
    before = dumped(config.url)
    path = Path(create_backup(config)["path"])
    verify_backup(config)
    other = new_url()
    dialect.native_restore(path, other)
    assert dumped(other) == before
    sql(config.url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert restore_backup(config)["warnings"] == []
    assert dumped(config.url) == before


def test_properties_of_the_database_come_back(
    new_url: Callable[[], str], tmp_path: Path, sql: Callable[..., Any]
) -> None:
    admin = new_url()
    name = f"{sa.make_url(admin).database}_icu"
    with connect(admin) as conn:
        conn.execute("SET allow_in_place_tablespaces = on")
        conn.execute("CREATE TABLESPACE elsewhere LOCATION ''")
    sql(
        admin,
        f"""CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de'
        TABLESPACE elsewhere CONNECTION LIMIT 7""",
    )
    config = BackupConfig(
        sa.make_url(admin).set(database=name).render_as_string(False), tmp_path / "backups"
    )
    sql(admin, f"COMMENT ON DATABASE {name} IS 'a {{comment}}'")
    for setting in (
        "work_mem TO '7MB'",
        'search_path TO "$user", public, "a b"',
        "role TO 'pg_monitor'",
        "default_transaction_read_only TO on",
        "my.own TO 'x y'",
    ):
        sql(admin, f"ALTER DATABASE {name} SET {setting}")
    sql(
        admin,
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO pg_monitor",
    )
    query = postgresql.PROPERTIES.replace("%s", f"'{name}'")
    before = sql(admin, query)
    create_backup(config)
    assert restore_backup(config)["warnings"] == []
    assert sql(admin, query) == before
    dialect.drop_database(config.url)
    assert restore_backup(config)["warnings"] == []
    assert sql(admin, query) == before
    dialect.drop_database(config.url)
    sql(admin, "DROP TABLESPACE elsewhere")


def test_limits_of_the_role_stop_nothing(limited: BackupConfig, sql: Callable[..., Any]) -> None:
    create_backup(limited)
    sql(limited.url, "ALTER ROLE limited SET statement_timeout = '1ms'")
    sql(limited.url, "ALTER ROLE limited SET default_transaction_read_only = on")
    create_backup(limited)
    verify_backup(limited)
    restore_backup(limited)


def test_an_extension_that_needs_a_superuser_is_named(
    limited: BackupConfig, filled: BackupConfig, sql: Callable[..., Any]
) -> None:
    sql(filled.url, "CREATE EXTENSION pageinspect")
    assert "pageinspect" in create_backup(limited)["notes"][0]
    with pytest.raises(backup.DatabaseError, match="pageinspect"):
        verify_backup(limited)
    assert postgresql.side_databases(limited.url, "restore") == []
    verify_backup(filled)


def test_a_subscription_is_left_out_and_named(
    filled: BackupConfig, sql: Callable[..., Any]
) -> None:
    sql(
        filled.url,
        "CREATE SUBSCRIPTION s CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)",
    )
    assert "subscription s" in create_backup(filled)["notes"][0]
    verify_backup(filled)
    assert "subscription s" in restore_backup(filled)["warnings"][0]
    assert postgresql.side_databases(filled.url, "restore") == []
    for name in (name_of(filled), *postgresql.side_databases(filled.url, "old")):
        url = sa.make_url(filled.url).set(database=name).render_as_string(False)
        for (found,) in sql(
            url,
            f"""SELECT subname FROM pg_subscription JOIN pg_database d
                ON d.oid = subdbid WHERE datname = '{name}'""",
        ):
            sql(url, f"ALTER SUBSCRIPTION {found} DISABLE")
            sql(url, f"ALTER SUBSCRIPTION {found} SET (slot_name = NONE)")
            sql(url, f"DROP SUBSCRIPTION {found}")


def test_many_tables_and_large_objects(filled: BackupConfig, sql: Callable[..., Any]) -> None:
    sql(
        filled.url,
        """DO $$ BEGIN FOR n IN 1..2100 LOOP
        EXECUTE format('CREATE TABLE many_%s (id int PRIMARY KEY, x int UNIQUE)', n);
        IF n % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$""",
    )
    for _ in range(15):
        sql(filled.url, "SELECT lo_from_bytea(0, 'x') FROM generate_series(1, 1000)")
    made = create_backup(filled)
    assert len(made["tables"]) == 2101
    verify_backup(filled)


def test_a_newer_pg_dump_writes_what_the_server_knows(
    filled: BackupConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("pg_dump", "psql"):
        script = tmp_path / "bin" / name
        edit = (
            "| sed '/^SET transaction_timeout/d; 0,/^SET lock_timeout/s//SET transaction_timeout = 0;\\n&/'"
            if name == "pg_dump"
            else ""
        )
        real = next(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        script.write_text(f"""#!/bin/bash
if [ "$1" = --version ]; then echo "{name} (PostgreSQL) 99.1"; exit; fi
{real} "$@" {edit}
""")
        script.chmod(0o755)
    monkeypatch.setattr(postgresql, "FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    made = create_backup(filled)
    assert "99.1" in made["versions"]["tool"]
    with connect(filled.url) as conn:
        is_old = conn.info.server_version < 170000
    assert ("transaction_timeout" in made["versions"]["tool"]) == is_old
    assert not made["notes"]
    verify_backup(filled)


def test_the_servers_own_version_is_preferred(
    filled: BackupConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 99.1'\n")
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "99.1" not in create_backup(filled)["versions"]["tool"]
    monkeypatch.setattr(postgresql, "FOLDERS", ())
    (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    with pytest.raises(backup.ToolError, match="older than the server"):
        create_backup(filled)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(backup.ToolError, match="not installed.*postgresql-client"):
        create_backup(filled)


def test_names_that_begin_alike(
    filled: BackupConfig, new_url: Callable[[], str], sql: Callable[..., Any]
) -> None:
    base = f"{name_of(filled)}_{'x' * 60}"[:50]
    configs = []
    for ending in ("", "_backup", "_one", "_two"):
        name = f"{base}{ending}"
        sql(filled.url, f"CREATE DATABASE {name}")
        url = sa.make_url(filled.url).set(database=name).render_as_string(False)
        sql(url, f"CREATE TABLE t AS SELECT '{name}' AS name")
        configs.append(replace(filled, url=url))
    for config in configs:
        create_backup(config)
    for config in configs:
        assert len(backup.list_backups(config)) == 1
        restore_backup(config)
        assert sql(config.url, "SELECT name FROM t") == [(name_of(config),)]
    assert len(backup.drop_old(configs[2])) == 1
    assert [len(backup.old_databases(config)) for config in configs] == [1, 1, 0, 1]
    for config in configs:
        dialect.drop_database(config.url)


TAMPERED = {
    "before": lambda text: b"\\! touch %s\n" + text,
    "after": lambda text: text + b"\\! touch %s\n",
    "unrestricted": lambda text: text.replace(
        b"SET statement",
        b"\\un"
        + text[text.index(b"\\restrict") + 1 :].split(b"\n")[0]
        + b"\n\\! touch %s\nSET statement",
        1,
    ),
    "without restrict": lambda text: b"\\! touch %s\n".join(
        line + b"\n" for line in text.splitlines() if b"restrict" not in line
    ),
    "inside": lambda text: text.replace(
        b"SET lock_timeout", b"SELECT 1 \\! touch %s\n;SET lock_timeout", 1
    ),
}


@pytest.mark.parametrize("way", TAMPERED)
def test_a_tampered_file_gets_no_shell(filled: BackupConfig, tmp_path: Path, way: str) -> None:
    path = Path(create_backup(filled)["path"])
    proof = tmp_path / "proof"
    text = TAMPERED[way](gzip.decompress(path.read_bytes())).replace(b"%s", bytes(proof))
    path.write_bytes(gzip.compress(text))
    data = path.read_bytes()
    folder.update_manifest(
        path, sha256=hashlib.sha256(data).hexdigest(), size=len(data), dump_size=len(text)
    )
    with pytest.raises(backup.BackupError):
        restore_backup(filled)
    assert not proof.exists()
