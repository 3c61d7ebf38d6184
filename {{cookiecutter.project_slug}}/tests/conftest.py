"""Fixtures. The servers are real, and started by the first test that needs them."""

import secrets
{{ "import sys\n" if cookiecutter.use_celery }}from collections.abc import Iterator
{{ "from pathlib import Path\nfrom typing import Any\n" if cookiecutter.use_celery }}
import pytest
from alembic.config import main as alembic
{{ "from celery import Task\n" if cookiecutter.use_celery }}from fastapi.testclient import TestClient

from app.core.database import get_engine, get_monitoring_engine, session_scope
{{ "from app.jobs import Job, JobStatus, enqueue, get_job\n" if cookiecutter.use_celery }}from app.main import app
from app.models import Base
{{ "from app.tasks.example_task import send_notification\n" if cookiecutter.use_celery }}{% set names = (["redis_server"] if cookiecutter.use_redis else []) + (["running", "wait_until"] if cookiecutter.use_celery else []) %}
{{ "from tests.servers import " ~ names | join(", ") ~ "\n" if names }}from tests.servers.database import DATABASE_URL, database_server


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
    for engine in (get_engine(), get_monitoring_engine()):
        engine.dispose()


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


def queue(task: Task[..., Any], **kwargs: Any) -> str:
    """Queue a job in a transaction of its own and return its id."""
    with session_scope() as session:
        return enqueue(session, task, **kwargs).id


def queue_for_later(owner_id: int | None = None) -> str:
    """Queue a job that no worker takes during the test, and return its id."""
    return queue(send_notification, owner_id=owner_id, countdown=3600, user_id=1, message="hello")


def read(job_id: str) -> Job:
    """Return the row of a job."""
    with session_scope() as session:
        return get_job(session, job_id)


def change(job_id: str, **values: Any) -> None:
    """Change the row of a job."""
    with session_scope() as session:
        job = get_job(session, job_id)
        for name, value in values.items():
            setattr(job, name, value)


def finished(job_id: str) -> Job:
    """Wait until a job has finished, and return its row."""
    finished = (JobStatus.SUCCESS, JobStatus.FAILURE, JobStatus.REVOKED)
    wait_until(lambda: read(job_id).status in finished)
    return read(job_id)
{% endif %}
