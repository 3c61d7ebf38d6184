"""Real processes for tests: started, waited for, and ended with all their children."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.conftest import project_environment, unavailable


def free_port() -> int:
    """Return a TCP port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(
    condition: Callable[[], Any],
    seconds: float = 60,
    message: str = "it did not happen",
    every: float = 0.1,
) -> Any:
    """Poll until the condition is true and return its value; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{message} within {seconds:g} s")
        time.sleep(every)
    return value


@contextmanager
def process(
    *command: str | Path, cwd: Path, log: Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a process group of its own; end the whole group at the end."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=project_environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen[bytes], sign: signal.Signals = signal.SIGTERM) -> int:
    """Ask a program to end, then end its group by force, and return its exit code."""
    if child.poll() is None:
        child.send_signal(sign)
        with suppress(subprocess.TimeoutExpired):
            child.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis server on a free port; its address without a database's number."""
    program = shutil.which("redis-server")
    if program is None:
        unavailable("no redis-server: apt install redis-server")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with process(str(program), *options, cwd=folder, log=folder / "redis.log"):
        wait_until(lambda: answers(port), 10, "Redis does not listen")
        yield f"redis://127.0.0.1:{port}"


def answers(port: int) -> bool:
    """Return whether something accepts connections on a port of this machine."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


class Api:
    """Requests to an API, with the answers' status and JSON."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.token = ""

    def request(
        self, method: str, path: str, *, form: object = None, body: object = None, **query: object
    ) -> tuple[int, Any]:
        """Return the status and the decoded body of one request."""
        url = f"{self.address}{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None
        if form is not None:
            data = urllib.parse.urlencode(form).encode()
        elif body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.loads(response.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or "null")

    def get(self, path: str, **query: object) -> tuple[int, Any]:
        """GET a path."""
        return self.request("GET", path, **query)

    def is_up(self) -> bool:
        """Return whether the process answers."""
        try:
            return self.get("/health/live")[0] == 200
        except OSError:
            return False

    def log_in(self, email: str) -> "Api":
        """Register a user if need be, and return a client that is logged in as them."""
        account = {"email": email, "password": "correct horse"}
        assert self.request("POST", "/auth/register", body=account)[0] in (201, 409)
        form = {"username": email, "password": account["password"]}
        status, tokens = self.request("POST", "/auth/token", form=form)
        assert status == 200
        client = Api(self.address)
        client.token = tokens["access_token"]
        return client

    def result(self, task_id: str, seconds: float = 60) -> dict[str, Any]:
        """Return a task's state once it has ended."""

        def ended() -> dict[str, Any] | None:
            _, state = self.get(f"/task/{task_id}")
            return state if state["status"] in ("SUCCESS", "FAILURE", "REVOKED") else None

        return wait_until(ended, seconds, f"task {task_id} does not end")
