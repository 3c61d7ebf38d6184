"""The SQLAlchemy engine, sessions and the base class of all models.

There is one synchronous engine per process, for the API and the workers alike. It is created on
first use and never inherited over a fork, since two processes must not share a connection:
https://docs.sqlalchemy.org/en/21/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
{% if cookiecutter.database == "sqlite" %}
from sqlite3 import Connection
{% endif %}
from typing import Any

from sqlalchemy import {% if cookiecutter.database != "mysql" %}DateTime, {% endif %}Engine, MetaData, create_engine, {% if cookiecutter.database == "sqlite" %}event, {% endif %}func{% if cookiecutter.database != "sqlite" %}, make_url{% endif %}, text
{% if cookiecutter.database == "mysql" %}
from sqlalchemy.dialects.mysql import DATETIME
{% endif %}
from sqlalchemy.orm import DeclarativeBase, Session

from app.core.config.settings import settings

{% if cookiecutter.database == "mysql" %}
# Times are in UTC, without a time zone, in microseconds.
Timestamp = DATETIME(fsp=6)
# The time of the database server, the one clock that all processes share.
DATABASE_NOW = func.utc_timestamp(6, type_=Timestamp)
{% elif cookiecutter.database == "postgresql" %}
# Times are in UTC, without a time zone.
Timestamp = DateTime()
# The time of the database server, the one clock that all processes share.
DATABASE_NOW = func.timezone("utc", func.clock_timestamp(), type_=Timestamp)
{% else %}
# Times are in UTC, without a time zone.
Timestamp = DateTime()
# In the format that SQLAlchemy stores, so that times can be compared.
DATABASE_NOW = func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=Timestamp)
{% endif %}


class Base(DeclarativeBase):
    """The base class of all models. Constraints get predictable names, so migrations can refer to them."""

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
    """Return a new engine. It connects on first use.

{% if cookiecutter.database == "sqlite" %}
    ``timeout`` is the number of seconds to wait for another writer; without it, an hour.
{% else %}
    ``timeout`` is the number of seconds that one statement may take; without it, there is no limit.
{% endif %}
    """
{% if cookiecutter.database == "postgresql" %}
    url = make_url(settings.database.DATABASE_URL)
    # https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
    connect_args: dict[str, Any] = {
        "connect_timeout": 3,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,  # milliseconds without an acknowledgement
    }
    if timeout is not None:
        options = url.query.get("options", "")
        connect_args["options"] = f"{options} -c statement_timeout={timeout}s".strip()
    return create_engine(
        url,
        connect_args=connect_args,
        pool_pre_ping=True,
        pool_size=settings.database.DATABASE_POOL_SIZE,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,  # Values stay out of exceptions, and so out of the logs.
    )
{% elif cookiecutter.database == "mysql" %}
    url = make_url(settings.database.DATABASE_URL)
    # https://pymysql.readthedocs.io/en/latest/modules/connections.html
    connect_args: dict[str, Any] = {
        "connect_timeout": 3,
        "read_timeout": timeout,
        "write_timeout": timeout,
        # PyMySQL encodes text in Latin-1, but the server expects UTF-8.
        "password": (url.password or "").encode(),
    }
    return create_engine(
        url,
        connect_args=connect_args,
        pool_pre_ping=True,
        pool_size=settings.database.DATABASE_POOL_SIZE,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,  # Values stay out of exceptions, and so out of the logs.
        # Under the default, REPEATABLE READ, two transactions that insert can deadlock on gaps.
        isolation_level="READ COMMITTED",
    )
{% else %}
    connect_args: dict[str, Any] = {"timeout": timeout or 60 * 60}
    engine = create_engine(
        settings.database.DATABASE_URL,
        connect_args=connect_args,
        pool_size=settings.database.DATABASE_POOL_SIZE,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,  # Values stay out of exceptions, and so out of the logs.
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Connection, _record: object) -> None:
        # In WAL mode readers do not wait for a writer: https://www.sqlite.org/wal.html
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine
{% endif %}


@cache
def get_engine() -> Engine:
    """Return the engine of this process. It connects on first use."""
    return make_engine(settings.database.DATABASE_TIMEOUT)


@contextmanager
def session_scope() -> Iterator[Session]:
    """Open a session; commit at the end, or roll back if an exception was raised."""
    # Used after it was closed, it raises InvalidRequestError: nobody would close it again.
    session = Session(get_engine(), expire_on_commit=False, close_resets_only=False)
    with session, session.begin():
        yield session


def ping_database() -> None:
    """Run a query that does nothing.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database does not answer.
    """
    with get_engine().connect() as connection:
        connection.execute(text("SELECT 1"))


def dispose_engine() -> None:
    """Close all connections of this process."""
    if get_engine.cache_info().currsize:
        get_engine().dispose()
        get_engine.cache_clear()


def _forget_inherited_engine() -> None:
    # A forked child must leave the connections of its parent alone.
    if get_engine.cache_info().currsize:
        get_engine().dispose(close=False)
        get_engine.cache_clear()


if hasattr(os, "register_at_fork"):  # Windows does not fork.
    os.register_at_fork(after_in_child=_forget_inherited_engine)
