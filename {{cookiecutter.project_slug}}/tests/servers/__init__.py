"""Servers for the tests. They use free ports and temporary folders, and are stopped at the end.

The pytest plugins that start such servers are not used: they start them after the settings are
read, not all of them as root, and fail where nothing is installed.
"""

{{ "import os\n" if cookiecutter.database != "sqlite" or cookiecutter.use_redis }}{{ "import shutil\n" if cookiecutter.database != "sqlite" }}import socket
import subprocess
{{ "import sys\nimport tempfile\n" if cookiecutter.use_redis }}import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


{% if cookiecutter.database != "sqlite" %}
def skip_or_fail(reason: str) -> None:
    """Skip the test because a program is not installed. With ``CI=1`` the test fails."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def find_program(*names: str, folders: Sequence[Path] = ()) -> str | None:
    """Return the path of the first program that is installed, or None.

    Debian keeps database servers in folders that are not on ``PATH``.
    """
    path = os.pathsep.join([os.environ["PATH"], *map(str, folders)])
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


{% endif %}
def free_port() -> int:
    """Return a TCP port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether something accepts connections on the port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Poll until the condition is true; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not true after {seconds:g} s: {condition}")
        time.sleep(0.05)


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, user: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its output in a file, and end it afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, user=user
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
{% if cookiecutter.database != "sqlite" or cookiecutter.use_redis %}


@contextmanager
def server(
    command: Sequence[str | Path],
    log: Path,
    is_ready: Callable[[], bool],
    user: str | None = None,
) -> Iterator[None]:
    """Run a server; the body starts when it is ready."""
    with running(command, log, user) as process:

        def ready() -> bool:
            if process.poll() is not None:
                pytest.fail(f"{command[0]} ended:\n{log.read_text(errors='replace')}")
            return is_ready()

        wait_until(ready)
        yield
{% endif %}
{% if cookiecutter.use_redis %}


GIVEN_REDIS = os.environ.get("TEST_REDIS_URL")
REDIS_PORT = free_port()


def redis_url(number: int) -> str:
    """Return the URL of a numbered database."""
    return f"{(GIVEN_REDIS or f'redis://127.0.0.1:{REDIS_PORT}').rstrip('/')}/{number}"


@contextmanager
def redis_server() -> Iterator[None]:
    """Run the server, or use the empty one of ``TEST_REDIS_URL``, such as redis://localhost."""
    if GIVEN_REDIS:
        yield
        return
    command = [sys.executable, "-m", "dev.redis", str(REDIS_PORT)]
    with (
        tempfile.TemporaryDirectory() as folder,
        server(command, Path(folder) / "log", lambda: listens(REDIS_PORT)),
    ):
        yield
{% endif %}
