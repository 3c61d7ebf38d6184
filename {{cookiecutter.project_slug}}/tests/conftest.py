"""Fixtures. The servers are real, and started by the first test that needs them."""

import os
import secrets
{% if cookiecutter.use_celery %}
import sys
{% endif %}
{% if cookiecutter.use_backup %}
import tempfile
{% endif %}
from collections.abc import Iterator
{% if cookiecutter.use_celery %}
from pathlib import Path
{% endif %}

import pytest
from alembic.config import main as alembic
from fastapi.testclient import TestClient

{% if cookiecutter.use_celery %}
from tests.servers import running, wait_until
{% endif %}
from tests.servers.database_{{ cookiecutter.database }} import DATABASE_URL, database_server
{% if cookiecutter.use_redis %}
from tests.servers.redis import redis_server, redis_url
{% endif %}

{% if cookiecutter.use_backup %}
backups = tempfile.TemporaryDirectory()
{% endif %}
# Settings are read when ``app`` is first imported, so the addresses are known before that.
os.environ |= {
    "ENVIRONMENT": "development",
    "SECRET_KEY": secrets.token_hex(),
    "DATABASE_URL": DATABASE_URL,
    # All tests have one client address.
    "LOGIN_ADDRESS_RATE_LIMIT": "1000/minute",
    "REGISTRATION_RATE_LIMIT": "1000/minute",
{% if cookiecutter.use_redis %}
    "REDIS_URL": redis_url(0),
{% endif %}
{% if cookiecutter.use_celery %}
    "CELERY_BROKER_URL": redis_url(1),
    "CELERY_RESULT_BACKEND": redis_url(2),
    "CELERY_WORKER_CONCURRENCY": "2",
{% endif %}
{% if cookiecutter.use_backup %}
    "BACKUP_DIR": backups.name,
{% if cookiecutter.use_celery %}
    "BACKUP_RETRY_SECONDS": "0",
{% endif %}
{% endif %}
}


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """The address of a database on a server that is ours."""
    with database_server():
        yield DATABASE_URL


@pytest.fixture(scope="session")
def database(database_url: str) -> Iterator[None]:
    """The database with all migrations applied."""
    alembic(["upgrade", "head"])
    yield
    from app.core.database import dispose_engine

    dispose_engine()


@pytest.fixture
def clean_database(database: None) -> Iterator[None]:
    """The database, empty again after the test."""
    yield
    from app.core.database import session_scope
    from app.models import {% if cookiecutter.use_celery %}Job, {% endif %}RefreshToken, {% if cookiecutter.use_celery %}ScheduleState, {% endif %}User

    with session_scope() as session:
{% if cookiecutter.use_celery %}
        session.query(Job).delete()
        session.query(ScheduleState).delete()
{% endif %}
        session.query(RefreshToken).delete()
        session.query(User).delete()


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
    from app.main import app

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
    """A real worker with two processes; its log."""
    log = tmp_path_factory.mktemp("worker") / "log"
    command = [sys.executable, "-m", "celery", "-A", "app.core.celery.celery_app", "worker"]
    with running([*command, "--loglevel=info"], log):
        wait_until(lambda: b" ready." in log.read_bytes())
        yield log
{% endif %}
