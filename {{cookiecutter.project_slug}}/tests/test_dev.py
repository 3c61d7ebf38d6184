"""``python -m dev`` and ``python -m dev.env``."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
{% if cookiecutter.database != "sqlite" %}
from alembic.config import main as alembic
{% endif %}

from dev import env
from tests.servers import free_port, listens, running, wait_until

DEV = [sys.executable, "-m", "dev"]


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of ``python -m dev``, with free ports."""
    return os.environ | {
        "PORT": str(free_port()),
{% if cookiecutter.use_celery %}
        "FLOWER_PORT": str(free_port()),
{% endif %}
    }


def test_env_file_has_fresh_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(env, "ENV_FILE", tmp_path / ".env")
    env.create_env_file()
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    lines = (tmp_path / ".env").read_text().splitlines()
    (secret,) = [line for line in lines if line.startswith("SECRET_KEY=")]
    assert len(secret) == len("SECRET_KEY=") + 64
    assert not [line for line in lines if line.endswith("=") and not line.startswith("#")]
    with pytest.raises(FileExistsError):
        env.create_env_file()


def test_port_in_use_is_named(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(environment["PORT"]))):
        result = subprocess.run(DEV, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    expected = f"Port {environment['PORT']} is in use. Set PORT in .env to a free port.\n"
    assert result.stderr == expected


def test_pending_migrations_are_named({{ "tmp_path: Path" if cookiecutter.database == "sqlite" else "database: None" }}, environment: dict[str, str]) -> None:
{% if cookiecutter.database == "sqlite" %}
    environment["DATABASE_URL"] = f"sqlite:///{tmp_path}/empty.db"
{% else %}
    alembic(["downgrade", "base"])
{% endif %}
    result = subprocess.run(DEV, env=environment, capture_output=True, text=True, check=False)
{% if cookiecutter.database != "sqlite" %}
    alembic(["upgrade", "head"])
{% endif %}
    assert result.returncode == 1
    assert result.stderr.endswith("Run: uv run alembic upgrade head\n")


def test_starts_and_stops_everything(
    database: None, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    port, log = int(environment["PORT"]), tmp_path / "log"
    with running(DEV, log) as process:

        def has_started() -> bool:
            assert process.poll() is None, log.read_text()
            return f"http://localhost:{port}/docs" in log.read_text()

        wait_until(has_started, seconds=120)
        assert httpx2.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    assert not listens(port)


SUPERVISE = """
import sys
from dev.supervisor import Process, supervise
process = Process("example", sys.executable, "-c", sys.argv[1])
sys.exit(supervise([process], lambda: sys.argv[2] == "ready", "all started"))
"""


@pytest.mark.parametrize(
    ("is_ready", "expected"),
    [
        ("ready", "all started\ndev: example ended with code 3, starting it again.\n"),
        ("not ready", "dev: example ended with code 3, stopping.\n"),
    ],
)
def test_process_that_ends_is_reported(tmp_path: Path, is_ready: str, expected: str) -> None:
    log = tmp_path / "log"
    code = "import time; time.sleep(2); raise SystemExit(3)"
    with running([sys.executable, "-c", SUPERVISE, code, is_ready], log) as process:
        wait_until(lambda: log.read_text() == expected)
        if is_ready == "ready":
            process.terminate()
            assert process.wait(30) == 0
        else:
            assert process.wait(30) == 1
