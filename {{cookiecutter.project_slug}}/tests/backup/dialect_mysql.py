"""What the backup tests need to know about MySQL and MariaDB."""

import os
import subprocess
from pathlib import Path

import pymysql
import sqlalchemy as sa

PROGRAMS = [
    "CREATE VIEW user_names AS SELECT id, name FROM users",
    "CREATE VIEW a_view_of_a_view AS SELECT name FROM user_names",
    "CREATE FUNCTION twice(n INT) RETURNS INT DETERMINISTIC RETURN /* twice */ n * 2",
    "CREATE PROCEDURE clear_audit() BEGIN DELETE FROM audit; DELETE FROM audit; END",
    "CREATE TRIGGER users_audit AFTER INSERT ON users FOR EACH ROW BEGIN\n"
    "INSERT INTO `audit` VALUES (NEW.name);\nEND",
]


def create_database(url: str, name: str) -> str:
    """Return the URL of a new, empty database."""
    with _admin(url) as conn, conn.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def drop_database(url: str) -> None:
    """Remove a database made by create_database, and what restores kept of it."""
    with _admin(url) as conn, conn.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        for (found,) in cursor.fetchall():
            if found.startswith(str(sa.make_url(url).database)):
                cursor.execute(f"DROP DATABASE `{found}`")


def connect_args(url: str) -> dict[str, object]:
    """Return what create_engine needs: PyMySQL sends a text password as latin-1."""
    return {"password": (sa.make_url(url).password or "").encode()}


def native_restore(backup: Path, url: str) -> None:
    """gunzip -c BACKUP | mysql DATABASE"""
    parts = sa.make_url(url)
    env = {
        **os.environ,
        "MYSQL_PWD": parts.password or "",
        "BACKUP": str(backup),
        "CLIENT": "mariadb" if _is_mariadb(url) else "mysql",
    }
    where = f"--protocol=tcp -h {parts.host} -P {parts.port} -u {parts.username} {parts.database}"
    command = f'gunzip -c "$BACKUP" | "$CLIENT" --comments --default-character-set=utf8mb4 {where}'
    subprocess.run(["bash", "-o", "pipefail", "-c", command], env=env, check=True)


def _is_mariadb(url: str) -> bool:
    with _admin(url) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        return "MariaDB" in str(cursor.fetchone())


def _admin(url: str) -> "pymysql.Connection":
    parts = sa.make_url(url)
    return pymysql.connect(
        host=parts.host,
        port=parts.port or 3306,
        user=parts.username,
        password=(parts.password or "").encode(),
        autocommit=True,
    )
