"""What the backup tests need to know about SQLite."""

import gzip
import sqlite3
from pathlib import Path

import sqlalchemy as sa

PROGRAMS = [
    "CREATE VIEW user_names AS SELECT id, name FROM users",
    "CREATE TRIGGER users_audit AFTER INSERT ON users"
    " BEGIN INSERT INTO audit VALUES (NEW.name); END",
]


def create_database(url: str, name: str) -> str:
    """Return the URL of a new, empty database."""
    path = Path(str(sa.make_url(url).database)).with_name(f"{name}.db")
    sqlite3.connect(path).execute("PRAGMA journal_mode = WAL")
    return f"sqlite:///{path}"


def drop_database(url: str) -> None:
    """Remove a database made by create_database."""
    path = Path(str(sa.make_url(url).database))
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def connect_args(url: str) -> dict[str, object]:
    """Return what create_engine needs."""
    return {}


def native_restore(backup: Path, url: str) -> None:
    """gunzip -c BACKUP > FILE"""
    path = Path(str(sa.make_url(url).database))
    path.write_bytes(gzip.decompress(backup.read_bytes()))
