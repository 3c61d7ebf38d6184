"""The SQLAlchemy engine, sessions and the base class of all models."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from sqlite3 import Connection
{% if cookiecutter.use_celery %}
from typing import Any
{% endif %}

from sqlalchemy import {{ "DateTime, " if cookiecutter.use_celery }}Engine, MetaData, create_engine, event{{ ", func" if cookiecutter.use_celery }}, make_url
from sqlalchemy.orm import DeclarativeBase, Session

from app.core.config.settings import settings
{% if cookiecutter.use_celery %}

# Times are in UTC, without a time zone.
Timestamp = DateTime()
# In the format that SQLAlchemy stores, so that times can be compared.
DATABASE_NOW = func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=Timestamp)
{% endif %}


class Base(DeclarativeBase):
    """The base class of all models. Constraints get names, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def make_engine(timeout: int | None = None) -> Engine:
    """Return an engine whose statements may take ``timeout`` seconds, or any time without it."""
    url = make_url(settings.database.DATABASE_URL)
    engine = create_engine(
        url,
        connect_args={"timeout": timeout or 3600},
        pool_size=settings.database.DATABASE_POOL_SIZE,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,  # Values stay out of exceptions, and so out of the logs.
    )

    @event.listens_for(engine, "do_connect")
    def create_file(*_: object) -> None:
        path = Path(url.database or "")
        if path.parent.exists() and not path.exists():
            path.touch(mode=0o600)

    @event.listens_for(engine, "connect")
    def configure(connection: Connection, _record: object) -> None:
        # In WAL mode readers do not wait for a writer: https://www.sqlite.org/wal.html
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
{% if cookiecutter.use_celery %}

    @event.listens_for(engine, "savepoint")
    def begin(connection: Any, *_: object) -> None:
        # Outside a transaction, to release a savepoint is to commit.
        if not connection.connection.dbapi_connection.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
{% endif %}

    return engine


@cache
def get_engine() -> Engine:
    """Return the engine of this process. It connects on first use."""
    return make_engine(settings.database.DATABASE_TIMEOUT)


@cache
def get_monitoring_engine() -> Engine:
    """Return an engine with connections of its own: requests may use all the others."""
    return make_engine(timeout=1)


def open_session() -> Session:
    """Return a session. Once closed, a response that is still being sent cannot open it again."""
    return Session(get_engine(), expire_on_commit=False, close_resets_only=False)


@contextmanager
def session_scope() -> Iterator[Session]:
    """Open a session; commit at the end, or roll back if an exception was raised."""
    with open_session() as session, session.begin():
        yield session
