"""Each test has a database of its own on a real server, filled with awkward content."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.backup import BackupConfig
from tests.backup import content
from tests.backup import dialect_{{ cookiecutter.database }} as dialect

ROOT = Path(__file__).parents[2]
numbers = itertools.count(1)

# A process that stops where it is told to, so that it can be killed there.
STOPPING = """
import os, sys
from app import backup
def stop(phase, done):
    if phase == os.environ["PHASE"]:
        print("reached", flush=True)
        sys.stdin.read()
config = backup.BackupConfig(os.environ["DATABASE_URL"], os.environ["BACKUP_DIR"])
getattr(backup, os.environ["FUNCTION"])(config, progress=stop)
"""


@pytest.fixture
def new_url(database_url: str) -> Iterator[Callable[[], str]]:
    """A function that creates an empty database, which is removed at the end."""
    made: list[str] = []

    def create() -> str:
        made.append(dialect.create_database(database_url, f"backup_test_{next(numbers)}_x"))
        return made[-1]

    yield create
    for url in made:
        dialect.drop_database(url)


@pytest.fixture
def connect() -> Iterator[Callable[[str], sa.Engine]]:
    """A function that connects to a database."""
    engines: list[sa.Engine] = []

    def create(url: str) -> sa.Engine:
        engines.append(sa.create_engine(url, connect_args=dialect.connect_args(url)))
        return engines[-1]

    yield create
    for engine in engines:
        engine.dispose()


@pytest.fixture
def config(
    tmp_path: Path, new_url: Callable[[], str], connect: Callable[[str], sa.Engine]
) -> BackupConfig:
    """A filled database, and a folder for its backups."""
    url = new_url()
    content.fill(connect(url), dialect.PROGRAMS)
    return BackupConfig(url, tmp_path / "backups")


@pytest.fixture
def live(config: BackupConfig, connect: Callable[[str], sa.Engine]) -> sa.Engine:
    """The filled database."""
    return connect(config.url)


@pytest.fixture
def stopped() -> Callable[..., AbstractContextManager[subprocess.Popen[str]]]:
    """A function that runs a function of ``app.backup`` in a process, up to a phase."""

    @contextmanager
    def start(config: BackupConfig, function: str, phase: str) -> Iterator[subprocess.Popen[str]]:
        variables = {
            "DATABASE_URL": config.url,
            "BACKUP_DIR": str(config.directory),
            "FUNCTION": function,
            "PHASE": phase,
        }
        with subprocess.Popen(
            [sys.executable, "-c", STOPPING],
            cwd=ROOT,
            env={**os.environ, **variables},
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
