"""Backups of MySQL and MariaDB: hard schemas, and all that was once lost or refused."""

import gzip
import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from app.backup.contents import RowCounter
from app.backup.errors import BackupError
from app.backup.operations import create_backup, drop_old, restore_backup, verify_backup
from app.core.config.settings import settings

# Statements up to an empty line are sent at once. To MySQL a trigger, routine or event of a single
# statement is sent on its own, because it keeps the semicolon after it.
SCHEMAS = {
    "types": "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, b BLOB, v VARBINARY(20), n BINARY(4),"
    " bits BIT(10), g GEOMETRY, j JSON, d DECIMAL(30, 10), e ENUM('a', 'it''s'), s SET('x', 'y'),"
    " ts TIMESTAMP(6) NULL, y YEAR, f DOUBLE, l LONGTEXT CHARACTER SET latin1);"
    "INSERT INTO t (b, v, n, bits, g, j, d, e, s, ts, y, f, l) VALUES (x'00ff27225c0a0d1a', x'80', 'ab',"
    " b'1010101010', POINT(1, 2), '{\"a\": \"\\\\n),(\"}', 1.5, 'it''s', 'x,y', '2024-02-29 23:59:59.123456',"
    " 2024, 1e300, 'ü'), (NULL, '', '', 0, NULL, NULL, -0.0000000001, 'a', '', NULL, NULL, NULL, '')",
    "text": "CREATE TABLE t (v TEXT) CHARACTER SET utf8mb4; INSERT INTO t VALUES ('a),(b'), ('),\\n('),"
    " ('\\\\'), ('\\''), (';\\n'), ('INSERT INTO `t` VALUES (1);\\n'), ('😀'), (''), (NULL), ('DELIMITER ;;\\n')",
    "names": "CREATE TABLE `a ``b' \"%%s` (`x),(y` INT, `VALUES (` INT, g INT AS (1));"
    "INSERT INTO `a ``b' \"%%s` (`x),(y`, `VALUES (`) VALUES (1, 2), (3, 4)",
    "cycles": "CREATE TABLE a (id INT PRIMARY KEY, b INT); CREATE TABLE b (id INT PRIMARY KEY, a INT);"
    "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b (id); ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a (id);"
    "INSERT INTO a VALUES (1, NULL); INSERT INTO b VALUES (1, 1); UPDATE a SET b = 1",
    "generated": "CREATE TABLE t (n INT, twice INT AS (n * 2) STORED, three INT AS (n * 3) VIRTUAL, KEY (three),"
    " CHECK (n > 0)); INSERT INTO t (n) VALUES (1), (2)",
    "partitions": "CREATE TABLE t (id INT, d DATE) PARTITION BY RANGE (YEAR(d))"
    " (PARTITION a VALUES LESS THAN (2020), PARTITION z VALUES LESS THAN MAXVALUE);"
    "INSERT INTO t VALUES (1, '2019-01-01'), (2, '2024-01-01')",
    "views": "CREATE TABLE t (a INT, v2 INT); INSERT INTO t VALUES (1, 2); CREATE FUNCTION f(n INT) RETURNS INT"
    " DETERMINISTIC RETURN n + 1\n\nCREATE VIEW v2 AS SELECT f(a) AS a FROM t; CREATE VIEW v1 AS SELECT * FROM v2;"
    "CREATE SQL SECURITY INVOKER VIEW v3 AS SELECT a FROM t WHERE a > 0 WITH CHECK OPTION",
    "programs": "CREATE TABLE t (n INT); CREATE TABLE audit (n INT);"
    "CREATE TRIGGER one BEFORE INSERT ON t FOR EACH ROW SET NEW.n = NEW.n + 1\n\n"
    "CREATE TRIGGER two AFTER INSERT ON t FOR EACH ROW INSERT INTO audit VALUES (NEW.n)\n\n"
    "CREATE PROCEDURE p() BEGIN /*\nDELIMITER ;\nINSERT INTO `t` VALUES (1),(2);\n*/ DELETE FROM audit; END;"
    "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM audit\n\nINSERT INTO t VALUES (1), (2)",
    "event": "CREATE TABLE t (n INT); CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM t",
    "engines": "CREATE TABLE m (id INT PRIMARY KEY) ENGINE = MyISAM; INSERT INTO m VALUES (1);"
    "CREATE TABLE h (id INT) ENGINE = MEMORY; CREATE TABLE c (id INT) COMMENT = 'it''s a\nCREATE TABLE `x` (';"
    "INSERT INTO c VALUES (1)",
    "collations": "CREATE TABLE t (a VARCHAR(20) COLLATE utf8mb4_bin PRIMARY KEY, b VARCHAR(9) CHARACTER SET ucs2,"
    " FULLTEXT (a)); INSERT INTO t VALUES ('A', 'ü'), ('a', '');",
}
SCHEMAS_OF_MARIADB = {
    "sequences": "CREATE SEQUENCE s START WITH 5 INCREMENT BY 2 NOCACHE; CREATE TABLE t (n INT); INSERT INTO t VALUES (1)",
    "history": "CREATE TABLE t (n INT) WITH SYSTEM VERSIONING; INSERT INTO t VALUES (1); UPDATE t SET n = 2; DELETE FROM t",
    "packages": "CREATE TABLE t (n INT); SET sql_mode = ORACLE; CREATE PACKAGE pk AS FUNCTION x RETURN INT; END;\n"
    "CREATE PACKAGE BODY pk AS FUNCTION x RETURN INT AS BEGIN RETURN 3; END; END;",
    "mariadb types": "CREATE TABLE t (u UUID, i INET6, p INT INVISIBLE DEFAULT 7); INSERT INTO t (u, i) VALUES"
    " ('123e4567-e89b-12d3-a456-426655440000', '::1')",
}
SCHEMAS_OF_MYSQL = {
    "mysql types": "CREATE TABLE v (id INT PRIMARY KEY, v VECTOR(3)); INSERT INTO v VALUES (1, STRING_TO_VECTOR('[1,2,3]'));"
    "CREATE TABLE j (j JSON, a VARCHAR(9) DEFAULT (CONCAT('a', 'b')), i INT INVISIBLE DEFAULT 3, g GEOMETRY NOT NULL SRID 4326,"
    " INDEX m ((CAST(j->'$.a' AS UNSIGNED ARRAY))), INDEX f ((UPPER(a)) DESC), SPATIAL INDEX (g));"
    "INSERT INTO j (j, g) VALUES ('{\"a\": [1, 2]}', ST_GeomFromText('POINT(1 2)', 4326));"
    "SET sql_generate_invisible_primary_key = 1; CREATE TABLE p (n INT); INSERT INTO p VALUES (5), (6)",
}
# These hold what one RENAME TABLE does not move.
BOUND = ("views", "programs", "event", "sequences", "packages")


def sql(statements: str, *, user: str = "", database: bool = True) -> list[Any]:
    """Run statements in the live database and return the rows of the first one."""
    parts = sa.make_url(settings.database.DATABASE_URL)
    with pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=user or parts.username,
        password="x" if user else (parts.password or "").encode(),
        database=parts.database if database else None,
        autocommit=True,
        client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS,
    ) as connection:
        cursor = connection.cursor()
        cursor.execute(statements)
        rows = list(cursor.fetchall())
        while cursor.nextset():
            pass
        return rows


@pytest.fixture(scope="session")
def is_mariadb(database_url: str) -> bool:
    return "MariaDB" in sql("SELECT version()", database=False)[0][0]


@pytest.fixture
def live(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The name of a new database, which has characters that mean something elsewhere."""
    name = f"t-{secrets.token_hex(4)} $x"
    parts = sa.make_url(database_url)
    sql(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4", database=False)
    url = parts.set(database=name).render_as_string(hide_password=False)
    monkeypatch.setattr(settings.database, "DATABASE_URL", f"{url}?charset=utf8mb4")
    monkeypatch.setattr(settings.backup, "BACKUP_DIR", tmp_path / "it's backups")
    yield name
    for (other,) in sql("SHOW DATABASES", database=False):
        if other.startswith(name):
            sql(f"DROP DATABASE `{other}`", database=False)


@pytest.fixture
def filled(live: str) -> str:
    """The same with a small table."""
    sql("CREATE TABLE t (n INT); INSERT INTO t VALUES (1), (2)")
    return live


def dumped(name: str) -> str:
    """Return a whole database as the dump program writes it."""
    parts = sa.make_url(settings.database.DATABASE_URL)
    options = "--no-defaults --routines --events --triggers --hex-blob --skip-comments"
    options += " --skip-add-locks --protocol=tcp"
    program = which("mariadb-dump") or which("mysqldump")
    address = [f"-h{parts.host}", f"-P{parts.port}", f"-u{parts.username}", name]
    done = subprocess.run(
        [str(program), *options.split(), *address],
        capture_output=True,
        check=True,
        env={**os.environ, "MYSQL_PWD": parts.password or ""},
    )
    return done.stdout.decode(errors="replace").replace(f"`{name}`.", "")


def restore() -> str | None:
    return restore_backup(None, lambda manifest: True)


def finish_by_hand(error: BackupError) -> None:
    """Run the commands at the end of the error message in a shell, as they are printed."""
    lines = str(error).splitlines()
    commands = [line for line in lines if line.startswith(("  export ", "  ("))]
    subprocess.run(
        ["sh", "-e"],
        input="\n".join(commands),
        text=True,
        check=True,
        capture_output=True,
        env={
            **os.environ,
            "DATABASE_URL": settings.database.DATABASE_URL,
            "BACKUP_DIR": str(settings.backup.BACKUP_DIR),
        },
    )


@pytest.mark.parametrize("schema", SCHEMAS | SCHEMAS_OF_MARIADB | SCHEMAS_OF_MYSQL)
def test_round_trip(schema: str, live: str, is_mariadb: bool) -> None:
    if schema in (SCHEMAS_OF_MYSQL if is_mariadb else SCHEMAS_OF_MARIADB):
        return  # It is for the other make.
    for statements in (SCHEMAS | SCHEMAS_OF_MARIADB | SCHEMAS_OF_MYSQL)[schema].split("\n\n"):
        sql(statements)
    history = "SELECT n, row_start, row_end FROM t FOR SYSTEM_TIME ALL ORDER BY row_start"
    old_rows = sql(history) if schema == "history" else []
    before = dumped(live)
    create_backup()
    verify_backup()
    sql("CREATE TABLE later (n INT)")
    if schema in BOUND:
        with pytest.raises(BackupError, match="not swapped") as caught:
            restore()
        assert sql("SELECT count(*) FROM later") == [(0,)]
        finish_by_hand(caught.value)
    else:
        kept = restore()
        assert "later" in dumped(str(kept))
        assert drop_old(lambda name: True) == [kept]
    assert dumped(live) == before
    if schema == "history":
        assert sql(history) == old_rows


def test_what_only_the_live_database_has_stops_a_restore(filled: str) -> None:
    create_backup()
    sql("CREATE VIEW v AS SELECT n FROM t")
    with pytest.raises(BackupError, match="not swapped(?s:.*)view v"):
        restore()
    assert sql("SELECT n FROM v") == [(1,), (2,)]


def test_foreign_keys_of_other_databases_point_to_the_restored_table(live: str) -> None:
    sql("CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1)")
    key = f"FOREIGN KEY (t) REFERENCES `{live}`.t (id)"
    sql(f"CREATE DATABASE `{live}2`; CREATE TABLE `{live}2`.c (t INT, {key})")
    create_backup()
    try:
        with pytest.raises(
            BackupError, match="not swapped(?s:.*)foreign key of another database"
        ) as caught:
            restore()
        finish_by_hand(caught.value)
        sql(f"INSERT INTO `{live}2`.c VALUES (1)")
        with pytest.raises(pymysql.IntegrityError):
            sql(f"INSERT INTO `{live}2`.c VALUES (2)")
    finally:
        sql(f"DROP DATABASE `{live}2`")


def test_the_backup_that_is_restored_by_hand_may_be_the_oldest(
    filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command makes a backup first, and that deletes old ones."""
    monkeypatch.setenv("BACKUP_KEEP_AT_LEAST", "1")
    sql("CREATE VIEW v AS SELECT n FROM t")
    made = create_backup()
    manifest = made.path.with_name(f"{made.file}.json")
    text = json.loads(manifest.read_text()) | {"created_at": "2020-01-01T00:00:00Z", "sequence": 1}
    manifest.write_text(json.dumps(text))
    sql("DELETE FROM t")
    with pytest.raises(BackupError, match="not swapped") as caught:
        restore()
    finish_by_hand(caught.value)
    assert not made.path.exists()
    assert sql("SELECT n FROM v") == [(1,), (2,)]


@pytest.mark.parametrize(
    "definition", ["{0}.tr BEFORE INSERT ON {0}.t", "tr BEFORE INSERT ON {0}.t"]
)
def test_a_qualified_trigger_does_not_reach_the_live_database(filled: str, definition: str) -> None:
    trigger = definition.format(f"`{filled}`")
    sql(f"CREATE TRIGGER {trigger} FOR EACH ROW SET NEW.n = 7")
    create_backup()
    sql("DROP TRIGGER tr")
    with pytest.raises(BackupError, match="trigger tr") as caught:  # noqa: PT012
        verify_backup()  # MySQL 9 has taken the database out of the definition.
        restore()
    assert sql("SHOW TRIGGERS") == []
    finish_by_hand(caught.value)
    sql("INSERT INTO t VALUES (1)")
    assert sql("SELECT max(n) FROM t") == [(7,)]


def test_modes_of_the_server(filled: str) -> None:
    sql("CREATE TABLE x (v TEXT); INSERT INTO x VALUES ('a\\\\),(\\'b'), (''), ('\"')")
    before = dumped(filled)
    mode = sql("SELECT @@global.sql_mode")[0][0]
    sql("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    try:
        create_backup()
        verify_backup()
        restore()
    finally:
        sql(f"SET GLOBAL sql_mode = '{mode}'")
    assert dumped(filled) == before


def test_beside_an_open_transaction(filled: str) -> None:
    sql("CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.n = NEW.n")
    parts = sa.make_url(settings.database.DATABASE_URL)
    with pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=parts.username,
        password=(parts.password or "").encode(),
        database=parts.database,
    ) as connection:
        connection.cursor().execute("INSERT INTO t VALUES (3)")
        assert create_backup().tables == {"t": 2}


def test_missing_rights_are_named(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = f"`{filled}%`.*"
    sql("CREATE PROCEDURE p() SELECT 1")
    sql(f"CREATE USER limited@'%' IDENTIFIED BY 'x'; GRANT ALL ON {pattern} TO limited@'%'")
    # MariaDB 11.3 and newer have a right to read routines.
    with suppress(pymysql.Error):
        sql(f"REVOKE SHOW CREATE ROUTINE ON {pattern} FROM limited@'%'")
    parts = sa.make_url(settings.database.DATABASE_URL)
    limited = parts.set(username="limited", password="x").render_as_string(False)
    monkeypatch.setattr(settings.backup, "BACKUP_DATABASE_URL", limited)
    try:
        with pytest.raises(BackupError, match="GRANT SHOW_ROUTINE .* TO 'limited'@'%'"):
            create_backup()
        sql(f"DROP PROCEDURE p; REVOKE TRIGGER ON {pattern} FROM limited@'%'")
        with pytest.raises(BackupError, match="GRANT TRIGGER ON") as caught:
            create_backup()
        sql(f"GRANT {str(caught.value).partition('GRANT ')[2]}")
        create_backup()
        sql(f"REVOKE CREATE ON {pattern} FROM limited@'%'")
        with pytest.raises(BackupError, match="GRANT ALL ON"):
            verify_backup()
    finally:
        sql("DROP USER limited@'%'")


def test_notes(filled: str) -> None:
    assert create_backup().notes == []
    sql("CREATE TABLE f (n FLOAT); CREATE VIEW v AS SELECT n FROM f")
    digits, programs = create_backup().notes
    assert "f.n" in digits
    assert programs.startswith("view")


def tamper(path: Path, line: bytes) -> None:
    """Add a line to a backup, and to its manifest whatever it needs to be accepted."""
    text = gzip.decompress(path.read_bytes()).replace(b"CREATE TABLE", line + b"\nCREATE TABLE", 1)
    data = gzip.compress(text)
    path.write_bytes(data)
    file = path.with_name(f"{path.name}.json")
    manifest = json.loads(file.read_text())
    manifest |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    manifest["details"]["without_events"] = len(text)
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "command", ["\\! touch %s", "system touch %s", "SELECT 1 \\! touch %s", "source %s"]
)
def test_a_tampered_file_gets_no_shell(filled: str, tmp_path: Path, command: str) -> None:
    proof = tmp_path / "proof"
    tamper(create_backup().path, (command % proof).encode())
    with pytest.raises(BackupError):
        restore()
    assert not proof.exists()


def test_an_error_shows_no_rows(filled: str) -> None:
    row = b"INSERT INTO nowhere VALUES ('a secret ERROR'),\n('ERROR in a row');"
    tamper(create_backup().path, row)
    with pytest.raises(BackupError) as caught:
        verify_backup()
    assert "secret" not in str(caught.value)
    assert "in a row" not in str(caught.value)


def test_rows_are_counted() -> None:
    text = (
        b"CREATE TABLE `a``b` (\n  `x` int\n);\nINSERT INTO `a``b` (`x),(y`, row_start) VALUES (1,'a),(b\\'\\\\'),(2,'x');\n"
        b"INSERT INTO `t` VALUES\n(1,'\\n),('),\n(2,NULL);\nINSERT INTO `t` VALUES\n(3,'');\n"
        b"INSERT INTO `alembic_version` VALUES\n('0001');\nCREATE TABLE `e` (\n"
    )
    counter = RowCounter("live")
    for line in text.splitlines(keepends=True):
        counter.count(line)
    assert counter.tables == {"a`b": 2, "t": 3, "alembic_version": 1, "e": 0}
    assert counter.revision == "0001"
