"""The SQLAlchemy engine, sessions and the base class of all models."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sqlalchemy import Engine, MetaData, create_engine{{ ", func" if cookiecutter.use_celery }}, make_url
{% if cookiecutter.use_celery %}
from sqlalchemy.dialects.mysql import DATETIME
{% endif %}
from sqlalchemy.orm import DeclarativeBase, Session

from app.core.config.settings import settings
{% if cookiecutter.use_celery %}

# Times are in UTC, without a time zone, in microseconds.
Timestamp = DATETIME(fsp=6)
# The time of the database server, the one clock that all processes share.
DATABASE_NOW = func.utc_timestamp(6, type_=Timestamp)
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
    # https://pymysql.readthedocs.io/en/latest/modules/connections.html
    url = make_url(settings.database.DATABASE_URL)
    return create_engine(
        url,
        connect_args={
            "connect_timeout": 2,
            "read_timeout": timeout,
            "write_timeout": timeout,
            # PyMySQL encodes text in Latin-1, but the server expects UTF-8.
            "password": (url.password or "").encode(),
        },
        # Under the default, REPEATABLE READ, two transactions that insert can deadlock on gaps.
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_size=settings.database.DATABASE_POOL_SIZE,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,  # Values stay out of exceptions, and so out of the logs.
    )


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
