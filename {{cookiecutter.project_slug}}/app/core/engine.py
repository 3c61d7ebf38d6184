"""How this project connects to its database, and how long it waits for it."""

{% if cookiecutter.database == "postgresql" %}
import time
from collections.abc import Generator
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event

from app.core.config.settings import settings


def make_engine(timeout: int | None = None) -> Engine:
    """Return a new engine. Does not connect.

    ``timeout`` is how many seconds the server may take for one answer; without it, as long as it
    likes. A server that hangs keeps its connections open and says nothing.
    """
    engine = create_engine(
        settings.database.DATABASE_URL,
        connect_args={"connect_timeout": 3},
        pool_pre_ping=True,
        # As many as are used at once stay open: to make one takes longer than a query.
        pool_size=15,
        max_overflow=0,
        pool_timeout=5,
    )
    if timeout is not None:
        event.listen(engine, "do_connect", partial(_connect, timeout))
    return engine


def _connect(timeout: int, _dialect: Any, _record: Any, args: Any, parameters: Any) -> Any:
    # Libpq has no limit of its own for an answer: Psycopg's waiting is wrapped.
    # https://www.psycopg.org/psycopg3/docs/api/connections.html
    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            return super().wait(self._within_timeout(gen), *args, **kwargs)

        def _within_timeout(self, gen: Any) -> Generator[Any, Any, Any]:
            try:
                wanted = next(gen)
                deadline = time.monotonic() + timeout
                while True:
                    ready = yield wanted
                    if ready:
                        deadline = time.monotonic() + timeout
                    elif time.monotonic() > deadline:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"no answer within {timeout} s")
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return Connection.connect(*args, **parameters)
{% elif cookiecutter.database == "mysql" %}
from sqlalchemy import Engine, create_engine, make_url

from app.core.config.settings import settings


def make_engine(timeout: int | None = None) -> Engine:
    """Return a new engine. Does not connect.

    ``timeout`` is how many seconds the server may take for one answer; without it, as long as it
    likes. A server that hangs keeps its connections open and says nothing.
    """
    url = make_url(settings.database.DATABASE_URL)
    return create_engine(
        url,
        connect_args={
            "connect_timeout": 3,
            "read_timeout": timeout,
            "write_timeout": timeout,
            # As bytes: PyMySQL sends a text in Latin-1, the server expects UTF-8.
            "password": (url.password or "").encode(),
        },
        pool_pre_ping=True,
        # As many as are used at once stay open: to make one takes longer than a query.
        pool_size=15,
        max_overflow=0,
        pool_timeout=5,
    )
{% else %}
from sqlite3 import Connection

from sqlalchemy import Engine, create_engine, event

from app.core.config.settings import settings


def make_engine(timeout: int | None = None) -> Engine:
    """Return a new engine. Does not connect.

    ``timeout`` is how many seconds a writer waits for another one; without it, an hour.
    """
    engine = create_engine(
        settings.database.DATABASE_URL,
        connect_args={"timeout": timeout or 60 * 60},
        pool_pre_ping=True,
        pool_timeout=5,
    )
    event.listen(engine, "connect", _prepare)
    return engine


def _prepare(connection: Connection, _record: object) -> None:
    # WAL lets readers go on while one writes: https://www.sqlite.org/wal.html
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
{% endif %}
