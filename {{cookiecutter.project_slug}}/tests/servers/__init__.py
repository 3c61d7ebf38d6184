"""Real servers for the tests: started on free ports, stopped afterwards, nothing left behind."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


def unavailable(reason: str) -> None:
    """Skip what needs a server that cannot be started here. In CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """Return a TCP port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def find_program(*names: str, folders: Sequence[Path] = ()) -> str | None:
    """Return the path of the first of the programs that is there, or None."""
    for name in names:
        for folder in (None, *folders):
            path = shutil.which(name, path=folder and str(folder))
            if path:
                return path
    return None


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Poll until the condition is true; fail when it is not after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not true after {seconds:g} s: {condition}")
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Return whether something accepts connections on this port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, user: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its output in a file; end it, whatever happens, at the end."""
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


@contextmanager
def server(
    command: Sequence[str | Path],
    log: Path,
    is_ready: Callable[[], bool],
    user: str | None = None,
) -> Iterator[None]:
    """Run a server, from when it is ready."""
    with running(command, log, user) as process:

        def ready() -> bool:
            if process.poll() is not None:
                pytest.fail(f"{command[0]} ended at once:\n{log.read_text(errors='replace')}")
            return is_ready()

        wait_until(ready)
        yield
