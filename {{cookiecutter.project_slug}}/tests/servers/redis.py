"""A Redis server for the tests."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import find_program, free_port, listens, server, unavailable

GIVEN = os.environ.get("TEST_REDIS_URL")
PORT = free_port()


def redis_url(number: int) -> str:
    """Return the address of one of the server's numbered databases."""
    return f"{(GIVEN or f'redis://127.0.0.1:{PORT}').rstrip('/')}/{number}"


@contextmanager
def redis_server() -> Iterator[None]:
    """Run the server that ``redis_url`` names."""
    if GIVEN:
        yield
        return
    program = find_program("redis-server", "valkey-server")
    if program is None:
        unavailable(
            "no redis-server: install it (apt install redis-server), or set TEST_REDIS_URL to the"
            " address of an empty one, such as redis://localhost:6379"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(PORT), "--bind", "127.0.0.1", "--dir", folder]
        with server([*command, "--save", ""], Path(folder) / "log", lambda: listens(PORT)):
            yield
