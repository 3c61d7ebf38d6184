"""What the backup tests need to know about PostgreSQL."""

import os
import subprocess
from pathlib import Path

import psycopg
import sqlalchemy as sa

PROGRAMS = [
    "CREATE VIEW user_names AS SELECT id, name FROM users",
    "CREATE FUNCTION audit_user() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO audit VALUES (NEW.name); RETURN NEW; END $$",
    "CREATE TRIGGER users_audit AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION audit_user()",
]


def create_database(url: str, name: str) -> str:
    """Return the URL of a new, empty database."""
    with _admin(url) as conn:
        conn.execute(f'CREATE DATABASE "{name}"'.encode())
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def drop_database(url: str) -> None:
    """Remove a database made by create_database, and what restores kept of it."""
    name = sa.make_url(url).database
    with _admin(url) as conn:
        rows = conn.execute("SELECT datname FROM pg_database").fetchall()
        for (found,) in rows:
            if found.startswith(name):
                conn.execute(f'DROP DATABASE "{found}" WITH (FORCE)'.encode())


def connect_args(url: str) -> dict[str, object]:
    """Return what create_engine needs."""
    return {}


def native_restore(backup: Path, url: str) -> None:
    """gunzip -c BACKUP | psql DATABASE"""
    parts = sa.make_url(url)
    env = {
        **os.environ,
        "PGPASSWORD": parts.password or "",
        "PGHOST": parts.host or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": parts.username or "",
        "PGDATABASE": parts.database or "",
        "BACKUP": str(backup),
    }
    command = 'gunzip -c "$BACKUP" | psql -q -X -v ON_ERROR_STOP=1'
    subprocess.run(["bash", "-o", "pipefail", "-c", command], env=env, check=True)


def _admin(url: str) -> psycopg.Connection:
    parts = sa.make_url(url)
    return psycopg.connect(
        host=parts.host,
        port=parts.port,
        user=parts.username,
        password=parts.password,
        dbname="postgres",
        autocommit=True,
    )
