"""A database file for the tests."""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = tempfile.mkdtemp()
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

DATABASE_URL = f"sqlite:///{Path(FOLDER) / 'test.db'}"


@contextmanager
def database_server() -> Iterator[None]:
    """There is nothing to run: SQLite has no server."""
    yield
