"""One synchronous SQLAlchemy engine per process, for the API and the workers alike.

The engine is made when it is first asked for, never at import, and is not inherited over a fork:
two processes on one connection read each other's rows.
https://docs.sqlalchemy.org/en/21/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, MetaData, text
from sqlalchemy.orm import DeclarativeBase, Session

from app.core.config.settings import settings
from app.core.engine import make_engine

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
                _engine = make_engine(settings.database.DATABASE_TIMEOUT)
    return _engine


@contextmanager
def session_scope() -> Iterator[Session]:
    """Open a session; commit at the end, roll back on an error."""
    with Session(get_engine(), expire_on_commit=False) as session, session.begin():
        yield session


def get_session() -> Iterator[Session]:
    """FastAPI dependency: a session that is committed when the route returns."""
    with session_scope() as session:
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
