"""Backups of MySQL and MariaDB: hard schemas, and everything that was once lost or refused."""

import gzip
import hashlib
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa

from app import backup
from app.backup import BackupConfig, create_backup, folder, mysql, restore_backup, verify_backup
from tests.backup import dialect_mysql as dialect
from tests.servers.database_mysql import IS_MARIADB

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
    "names": "CREATE TABLE `a ``b' \"%%s` (`x),(y` INT, `VALUES (` INT); INSERT INTO `a ``b' \"%%s` VALUES (1, 2)",
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
    "engines": "CREATE TABLE m (id INT PRIMARY KEY) ENGINE = MyISAM; INSERT INTO m VALUES (1);"
    "CREATE TABLE h (id INT) ENGINE = MEMORY; CREATE TABLE c (id INT) COMMENT = 'it''s a\nCREATE TABLE `x` (';"
    "INSERT INTO c VALUES (1)",
    "comments": "CREATE TABLE t (n INT); CREATE PROCEDURE p() DELETE FROM t # insufficient privileges\n\n"
    "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.n = 7 # last\n\n"
    "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM t # last",
    "collations": "CREATE TABLE t (a VARCHAR(20) COLLATE utf8mb4_bin PRIMARY KEY, b VARCHAR(9) CHARACTER SET ucs2,"
    " FULLTEXT (a)); INSERT INTO t VALUES ('A', 'ü'), ('a', '');",
}
SCHEMAS_OF_MARIADB = {
    "sequences": "CREATE SEQUENCE s START WITH 5 INCREMENT BY 2 NOCACHE; CREATE TABLE t (id INT DEFAULT NEXTVAL(s), n INT);"
    "INSERT INTO t (n) VALUES (1), (2)",
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
    "duality": "CREATE TABLE t (id INT PRIMARY KEY, n INT); INSERT INTO t VALUES (1, 2);"
    "CREATE JSON RELATIONAL DUALITY VIEW d AS SELECT JSON_DUALITY_OBJECT('_id': id, 'n': n) FROM t",
    "javascript": "CREATE FUNCTION f(n INT) RETURNS INT LANGUAGE JAVASCRIPT AS $$ return n + 1; $$",
}
SCHEMAS |= SCHEMAS_OF_MARIADB if IS_MARIADB else SCHEMAS_OF_MYSQL


def sql(url: str, statements: str, *, user: str = "", database: bool = True) -> list[Any]:
    """Run statements and return the rows of the first one."""
    parts = sa.make_url(url)
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


def dumped(url: str) -> str:
    """Return the whole database as the dump program writes it."""
    parts = sa.make_url(url)
    program = which("mariadb-dump") or which("mysqldump")
    options = [
        "--routines",
        "--events",
        "--triggers",
        "--hex-blob",
        "--skip-comments",
        "--protocol=tcp",
    ]
    options += [
        "--skip-add-locks",
        f"-h{parts.host}",
        f"-P{parts.port}",
        f"-u{parts.username}",
        str(parts.database),
    ]
    done = subprocess.run(
        [str(program), *options],
        capture_output=True,
        check=True,
        env={**os.environ, "MYSQL_PWD": parts.password or ""},
    )
    return done.stdout.decode(errors="replace").replace(f"`{parts.database}`.", "")


@pytest.fixture
def filled(new_url: Callable[[], str], tmp_path: Path) -> BackupConfig:
    """A small database."""
    url = new_url()
    sql(url, "CREATE TABLE t (n INT); INSERT INTO t VALUES (1), (2)")
    return BackupConfig(url, tmp_path / "backups")


@pytest.mark.parametrize("schema", SCHEMAS)
def test_round_trip(schema: str, new_url: Callable[[], str], tmp_path: Path) -> None:
    config = BackupConfig(new_url(), tmp_path / "backups")
    for statements in SCHEMAS[schema].split("\n\n"):
        sql(config.url, statements)
    history = "SELECT n, row_start, row_end FROM t FOR SYSTEM_TIME ALL ORDER BY row_start"
    old_rows = sql(config.url, history) if schema == "history" else []
    before = dumped(config.url)
    path = Path(create_backup(config)["path"])
    verify_backup(config)
    other = new_url()
    dialect.native_restore(path, other)
    assert dumped(other) == before
    sql(config.url, "CREATE TABLE later (n INT)")
    assert restore_backup(config)["warnings"] == []
    assert dumped(config.url) == before
    if schema == "history":
        assert sql(config.url, history) == old_rows
    if schema == "sequences":
        backup.drop_old(config)
        sql(config.url, "INSERT INTO t (n) VALUES (3)")


def test_a_qualified_trigger_does_not_reach_the_live_database(filled: BackupConfig) -> None:
    name = sa.make_url(filled.url).database
    trigger = f"CREATE TRIGGER {name}.tr BEFORE INSERT ON {name}.t FOR EACH ROW SET NEW.n = 7"
    sql(filled.url, trigger)
    create_backup(filled)
    sql(filled.url, "DROP TRIGGER tr")
    verify_backup(filled)
    assert sql(filled.url, "SHOW TRIGGERS") == []
    restore_backup(filled)
    sql(filled.url, "INSERT INTO t VALUES (1)")
    assert sql(filled.url, "SELECT max(n) FROM t") == [(7,)]


def test_programs_that_were_created_at_once_come_back(
    filled: BackupConfig, new_url: Callable[[], str]
) -> None:
    sql(
        filled.url,
        "CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1;"
        "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.n = 7;"
        "CREATE EVENT ev ON SCHEDULE EVERY 1 DAY DO DELETE FROM t; DO 0",
    )
    path = Path(create_backup(filled)["path"])
    other = new_url()
    dialect.native_restore(path, other)
    restore_backup(filled)
    for url in (filled.url, other):
        assert "RETURN 1;" not in dumped(url)
        assert len(sql(url, "SHOW EVENTS")) == 1
        sql(url, "INSERT INTO t VALUES (1)")
        assert sql(url, "SELECT max(n) FROM t") == [(7,)]


def test_programs_come_back_whatever_the_mode_of_the_server(filled: BackupConfig) -> None:
    sql(filled.url, "CREATE EVENT ev ON SCHEDULE EVERY 1 DAY DO DELETE FROM t")
    sql(filled.url, "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.n = 7")
    sql(filled.url, "CREATE VIEW v AS SELECT n FROM t")
    mode = sql(filled.url, "SELECT @@global.sql_mode")[0][0]
    before = dumped(filled.url)
    sql(filled.url, "SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    try:
        create_backup(filled)
        assert restore_backup(filled)["warnings"] == []
    finally:
        sql(filled.url, f"SET GLOBAL sql_mode = '{mode}'")
    assert dumped(filled.url) == before


def test_hidden_programs_are_refused(filled: BackupConfig, new_url: Callable[[], str]) -> None:
    url = sa.make_url(filled.url)
    sql(filled.url, "CREATE PROCEDURE p() SELECT 1")
    sql(
        filled.url,
        f"CREATE USER limited@'%' IDENTIFIED BY 'x'; GRANT ALL ON `{url.database}%`.* TO limited@'%'",
    )
    # MariaDB 11.3 and newer have a right to read routines.
    with suppress(pymysql.Error):
        sql(filled.url, f"REVOKE SHOW CREATE ROUTINE ON `{url.database}%`.* FROM limited@'%'")
    limited = replace(filled, url=url.set(username="limited", password="x").render_as_string(False))
    try:
        with pytest.raises(backup.DatabaseError, match="procedure p cannot be read"):
            create_backup(limited)
        sql(filled.url, "DROP PROCEDURE p")
        create_backup(limited)
        sql(filled.url, f"REVOKE TRIGGER ON `{url.database}%`.* FROM limited@'%'")
        with pytest.raises(backup.DatabaseError, match="GRANT TRIGGER"):
            create_backup(limited)
    finally:
        sql(filled.url, "DROP USER limited@'%'")


if not IS_MARIADB:

    def test_a_library_is_refused(filled: BackupConfig) -> None:
        sql(filled.url, "CREATE LIBRARY lib LANGUAGE JAVASCRIPT AS $$ export const n = 1 $$")
        with pytest.raises(backup.DatabaseError, match="library lib"):
            create_backup(filled)


def test_a_large_value_comes_back_or_is_refused(filled: BackupConfig) -> None:
    packet = sql(filled.url, "SELECT @@max_allowed_packet")[0][0]
    sql(filled.url, "CREATE TABLE big (b LONGBLOB, c LONGBLOB)")
    value = "repeat(unhex(sha2('x', 512)), %d)"
    sql(filled.url, f"INSERT INTO big (b) SELECT {value % (packet * 10 // 16 // 64)}")
    before = sql(filled.url, "SELECT sha2(b, 256) FROM big")
    create_backup(filled)
    restore_backup(filled)
    assert sql(filled.url, "SELECT sha2(b, 256) FROM big") == before
    sql(filled.url, "UPDATE big SET c = b")
    with pytest.raises(backup.DatabaseError, match="max_allowed_packet"):
        create_backup(filled)


def tamper(path: Path, line: bytes) -> None:
    text = gzip.decompress(path.read_bytes()).replace(b"CREATE TABLE", line + b"\nCREATE TABLE", 1)
    path.write_bytes(gzip.compress(text))
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    made = folder.parse_manifest(path.name, folder.manifest_path(path).read_bytes())
    properties = {**made.properties, "side_bytes": len(text)}
    folder.update_manifest(
        path, sha256=sha256, size=len(data), dump_size=len(text), properties=properties
    )


@pytest.mark.parametrize(
    "command", ["\\! touch %s", "system touch %s", "SELECT 1 \\! touch %s", "source %s"]
)
def test_a_tampered_file_gets_no_shell(filled: BackupConfig, tmp_path: Path, command: str) -> None:
    path = Path(create_backup(filled)["path"])
    proof = tmp_path / "proof"
    tamper(path, (command % proof).encode())
    with pytest.raises(backup.BackupError):
        restore_backup(filled)
    assert not proof.exists()


def test_a_file_that_names_another_database_is_refused(
    filled: BackupConfig, new_url: Callable[[], str]
) -> None:
    other = new_url()
    path = Path(create_backup(filled)["path"])
    tamper(path, f"USE {sa.make_url(other).database};".encode())
    with pytest.raises(backup.InvalidBackupError, match="USE"):
        verify_backup(filled)
    assert sql(other, "SHOW TABLES") == []


def test_an_error_shows_no_rows(filled: BackupConfig) -> None:
    path = Path(create_backup(filled)["path"])
    tamper(path, b"INSERT INTO nowhere VALUES ('a secret ERROR'),\n('ERROR in a row');")
    with pytest.raises(backup.DatabaseError) as caught:
        verify_backup(filled)
    assert "secret" not in str(caught.value)
    assert "in a row" not in str(caught.value)


def test_counter_counts_rows_cut_anywhere() -> None:
    text = (
        b"CREATE TABLE `a``b` (\n  `x` int\n);\nINSERT INTO `a``b` (`x`, row_start) VALUES (1,'a),(b\\'\\\\'),(2,'x');\n"
        b"INSERT INTO `t` VALUES\n(1,'\\n),('),\n(2,NULL);\nINSERT INTO `t` VALUES\n(3,'');\n"
        b"INSERT INTO `alembic_version` VALUES\n('0001');\nCREATE TABLE `e` (\n"
    )
    lines = text.splitlines(keepends=True)
    for size in range(1, len(lines) + 1):
        counter = mysql.RowCounter(b"live")
        blocks = [b"".join(lines[start : start + size]) for start in range(0, len(lines), size)]
        assert b"".join(map(counter.feed, blocks)) == text
        assert counter.tables == {"a`b": 2, "t": 3, "alembic_version": 1, "e": 0}
        assert counter.revision == "0001"
