"""``python -m dev``."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.servers import free_port, listens, running, wait_until

DEV = [sys.executable, "-m", "dev"]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port for the API."""
    port = free_port()
    monkeypatch.setenv("PORT", str(port))
{% if cookiecutter.use_celery %}
    monkeypatch.setenv("FLOWER_PORT", str(free_port()))
{% endif %}
    return port


def test_starts_and_stops_everything(database: None, port: int, tmp_path: Path) -> None:
    with running(DEV, tmp_path / "log") as process:
        wait_until(lambda: listens(port), seconds=120)
        assert httpx2.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not listens(port)


def test_names_a_port_in_use(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        result = subprocess.run(DEV, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == f"Port {port} is in use. Stop what uses it, or set another PORT.\n"
{% if cookiecutter.use_redis %}


def test_names_a_redis_server_that_is_down(
    database: None, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.2:1/0")
    result = subprocess.run(DEV, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.endswith("REDIS_URL: no Redis server answers at 127.0.0.2:1.\n")
{% endif %}
