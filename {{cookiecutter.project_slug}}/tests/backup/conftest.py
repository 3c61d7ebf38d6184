"""Each test has a database of its own on a real server, filled with awkward content."""

import importlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa

from app.backup import BackupConfig
from tests.backup import content

ROOT = Path(__file__).parents[2]
numbers = itertools.count(1)

# A process that stops where it is told to, so that it can be killed there.
STOPPING = """
import os, sys
from app import backup
def stop(phase, done, total):
    if phase == os.environ["PHASE"]:
        print("reached", flush=True)
        sys.stdin.read()
config = backup.BackupConfig(os.environ["DATABASE_URL"], os.environ["BACKUP_DIR"])
getattr(backup, os.environ["FUNCTION"])(config, progress=stop)
"""


@pytest.fixture(scope="session")
def dialect(database_url: str) -> ModuleType:
    name = sa.make_url(database_url).get_backend_name()
    return importlib.import_module(f"tests.backup.dialect_{name}")


@pytest.fixture
def new_url(database_url: str, dialect: ModuleType) -> Iterator[Callable[[], str]]:
    """Make empty databases, which are removed at the end."""
    made: list[str] = []

    def create() -> str:
        made.append(dialect.create_database(database_url, f"backup_test_{next(numbers)}_x"))
        return made[-1]

    yield create
    for url in made:
        dialect.drop_database(url)


@pytest.fixture
def connect(dialect: ModuleType) -> Iterator[Callable[[str], sa.Engine]]:
    engines: list[sa.Engine] = []

    def create(url: str) -> sa.Engine:
        engines.append(sa.create_engine(url, connect_args=dialect.connect_args(url)))
        return engines[-1]

    yield create
    for engine in engines:
        engine.dispose()


@pytest.fixture
def config(
    tmp_path: Path,
    new_url: Callable[[], str],
    connect: Callable[[str], sa.Engine],
    dialect: ModuleType,
) -> BackupConfig:
    """A filled database, and a folder for its backups."""
    url = new_url()
    content.fill(connect(url), dialect.PROGRAMS)
    return BackupConfig(url, tmp_path / "backups")


@pytest.fixture
def live(config: BackupConfig, connect: Callable[[str], sa.Engine]) -> sa.Engine:
    return connect(config.url)


@pytest.fixture
def stopped() -> Callable[..., AbstractContextManager[subprocess.Popen[str]]]:
    @contextmanager
    def start(config: BackupConfig, function: str, phase: str) -> Iterator[subprocess.Popen[str]]:
        env = {
            **os.environ,
            "DATABASE_URL": config.url,
            "BACKUP_DIR": str(config.directory),
            "FUNCTION": function,
            "PHASE": phase,
        }
        with subprocess.Popen(
            [sys.executable, "-c", STOPPING],
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "reached\n"
            try:
                yield process
            finally:
                process.kill()

    return start


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    paths = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in paths for child in path.read_text().split()]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
