"""One synchronous SQLAlchemy engine per process, for the API and the workers alike.

The engine is made when it is first asked for, never at import, and is not inherited over a fork:
two processes on one connection read each other's rows.
https://docs.sqlalchemy.org/en/21/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
{% if cookiecutter.database == "sqlite" %}
from sqlite3 import Connection as SQLiteConnection
{% endif %}
from typing import Any

from sqlalchemy import Engine, MetaData, create_engine{% if cookiecutter.database == "sqlite" %}, event{% endif %}, text
from sqlalchemy.orm import DeclarativeBase, Session

from app.core.config.settings import settings

{% if cookiecutter.database == "postgresql" %}
# Seconds; a server that is away is noticed in bounded time.
CONNECT_ARGS: dict[str, Any] = {"connect_timeout": 3, "tcp_user_timeout": 10_000}
{% elif cookiecutter.database == "mysql" %}
# Seconds; a server that is away or hangs is noticed in bounded time.
CONNECT_ARGS: dict[str, Any] = {"connect_timeout": 3, "read_timeout": 30, "write_timeout": 30}
{% else %}
# Seconds that a writer waits for another one.
CONNECT_ARGS: dict[str, Any] = {"timeout": 15}
{% endif %}

_lock = threading.Lock()
_engine: Engine | None = None


class Base(DeclarativeBase):
    """The parent of all models. Named constraints are the same on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def get_engine() -> Engine:
    """Return this process's engine. Does not connect."""
    global _engine
    if _engine is None:
        with _lock:
            if _engine is None:
                _engine = create_engine(
                    settings.database.DATABASE_URL,
                    connect_args=CONNECT_ARGS,
                    pool_pre_ping=True,
                    pool_timeout=5,
                )
{% if cookiecutter.database == "sqlite" %}
                event.listen(_engine, "connect", _prepare_sqlite)
{% endif %}
    return _engine

{% if cookiecutter.database == "sqlite" %}

def _prepare_sqlite(connection: SQLiteConnection, _record: object) -> None:
    # WAL lets readers go on while one writes: https://www.sqlite.org/wal.html
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")

{% endif %}

@contextmanager
def session_scope() -> Iterator[Session]:
    """Open a session; commit at the end, roll back on an error."""
    with Session(get_engine(), expire_on_commit=False) as session, session.begin():
        yield session


def ping_database() -> None:
    """Ask the database for an answer.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it does not give one.
    """
    with get_engine().connect() as connection:
        connection.execute(text("SELECT 1"))


def dispose_engine() -> None:
    """Close this process's connections. Harmless when there are none."""
    global _engine
    if _engine is not None:
        _engine.dispose()
        _engine = None


def _forget_inherited_engine() -> None:
    """In a forked child: leave the parent's connections alone and start with none."""
    global _engine, _lock
    _lock = threading.Lock()
    if _engine is not None:
        _engine.dispose(close=False)
        _engine = None


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_inherited_engine)
