"""A Redis server for the tests."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import free_port, listens, server

GIVEN = os.environ.get("TEST_REDIS_URL")
PORT = free_port()


def redis_url(number: int) -> str:
    """Return the URL of a numbered database."""
    return f"{(GIVEN or f'redis://127.0.0.1:{PORT}').rstrip('/')}/{number}"


@contextmanager
def redis_server() -> Iterator[None]:
    """Run the server, or use the empty one of ``TEST_REDIS_URL``, such as redis://localhost."""
    if GIVEN:
        yield
        return
    command = [sys.executable, "-m", "dev.redis", str(PORT)]
    with (
        tempfile.TemporaryDirectory() as folder,
        server(command, Path(folder) / "log", lambda: listens(PORT)),
    ):
        yield
