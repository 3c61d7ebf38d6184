"""A database file for the tests."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

folder = tempfile.TemporaryDirectory()
DATABASE_URL = f"sqlite:///{folder.name}/test.db"


@contextmanager
def database_server() -> Iterator[None]:
    """SQLite has no server."""
    yield
