"""Fixtures. The servers are real, and started by the first test that needs them."""

import secrets
{% if cookiecutter.use_celery %}
import sys
{% endif %}
from collections.abc import Iterator
{% if cookiecutter.use_celery %}
from pathlib import Path
{% endif %}

import pytest
from alembic.config import main as alembic
from fastapi.testclient import TestClient

from app.core.database import get_engine, session_scope
from app.main import app
from app.models import Base
{% if cookiecutter.use_celery %}
from tests.servers import running, wait_until
{% endif %}
from tests.servers.database import DATABASE_URL, database_server
{% if cookiecutter.use_redis %}
from tests.servers.redis import redis_server
{% endif %}


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """The URL of an empty database on a running server."""
    with database_server():
        yield DATABASE_URL


@pytest.fixture(scope="session")
def database(database_url: str) -> Iterator[None]:
    """The database with all migrations applied."""
    alembic(["upgrade", "head"])
    yield
    get_engine().dispose()


@pytest.fixture
def clean_database(database: None) -> Iterator[None]:
    """The database with all migrations applied. All rows are deleted after the test."""
    yield
    for table in reversed(Base.metadata.sorted_tables):
        # One transaction per table, which cannot deadlock with a transaction of a worker.
        with session_scope() as session:
            session.execute(table.delete())


{% if cookiecutter.use_redis %}
@pytest.fixture(scope="session")
def redis() -> Iterator[None]:
    """A Redis server."""
    with redis_server():
        yield


{% endif %}
@pytest.fixture
def client(clean_database: None{% if cookiecutter.use_redis %}, redis: None{% endif %}) -> Iterator[TestClient]:
    """The API, with an empty database."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
def user(client: TestClient) -> dict[str, str]:
    """The headers of a logged-in user."""
    return login(client, "user@example.com")


def login(client: TestClient, email: str) -> dict[str, str]:
    """Register and log in, and return the headers of that user's requests."""
    password = secrets.token_urlsafe()
    client.post("/auth/register", json={"email": email, "password": password})
    response = client.post("/auth/token", data={"username": email, "password": password})
    return {"Authorization": f"Bearer {response.json()['access_token']}"}
{% if cookiecutter.use_celery %}


@pytest.fixture(scope="session")
def worker(database: None, redis: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker with two processes; its log file."""
    log = tmp_path_factory.mktemp("worker") / "log"
    command = [sys.executable, "-m", "celery", "-A", "app.core.celery.celery_app", "worker"]
    with running([*command, "--loglevel=info"], log):
        wait_until(lambda: b" ready." in log.read_bytes(), seconds=60)
        yield log
{% endif %}
