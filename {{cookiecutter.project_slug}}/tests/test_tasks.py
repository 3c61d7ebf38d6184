"""The routes of tasks, the tasks themselves, and the Celery application."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.core.celery import TASKS, celery_app, find_task_modules
from app.core.config.settings import settings
from app.core.database import session_scope
from app.core.security import utc_now
from app.jobs.__main__ import app as command_line
from app.models import RefreshToken
from app.tasks.cleanup import cleanup_expired_tokens
from app.tasks.example_task import process_user_data, unreliable_task
from tests.conftest import change, finished, login, queue_for_later


def notify(client: TestClient, headers: dict[str, str]) -> str:
    """Queue a notification through the API and return its task id."""
    response = client.post("/notify?user_id=1&message=hello", headers=headers)
    assert response.status_code == 202
    assert response.json()["status"] == "queued"
    return str(response.json()["task_id"])


def later(client: TestClient, headers: dict[str, str]) -> str:
    """Queue a job of a logged-in user that does not run during the test."""
    return queue_for_later(client.get("/users/me", headers=headers).json()["id"])


# The routes


def test_notification_is_sent(client: TestClient, user: dict[str, str], worker: Path) -> None:
    task_id = notify(client, user)
    finished(task_id)
    result = {"status": "sent", "user_id": 1}
    state = {"task_id": task_id, "status": "SUCCESS", "result": result}
    assert client.get(f"/task/{task_id}", headers=user).json() == state


def test_tasks_are_listed_in_pages_newest_first(client: TestClient, user: dict[str, str]) -> None:
    ids = [notify(client, user) for _ in range(5)]
    listed: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = "/tasks?limit=2" + (f"&cursor={cursor}" if cursor else "")
        page = client.get(query, headers=user).json()
        listed += [item["task_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert listed == ids[::-1]


def test_cancelled_task_can_be_retried(client: TestClient, user: dict[str, str]) -> None:
    task_id, _ = later(client, user), later(client, user)
    assert client.post(f"/task/{task_id}/retry", headers=user).status_code == 409
    assert client.delete(f"/task/{task_id}", headers=user).json()["status"] == "REVOKED"
    cancelled = client.get("/tasks?status=REVOKED", headers=user).json()["items"]
    assert [item["task_id"] for item in cancelled] == [task_id]
    response = client.post(f"/task/{task_id}/retry", headers=user)
    assert (response.status_code, response.json()["status"]) == (202, "PENDING")


def test_task_of_another_user_is_not_found(client: TestClient, user: dict[str, str]) -> None:
    other = login(client, "other@example.com")
    for task_id in (later(client, user), "unknown"):
        assert client.get(f"/task/{task_id}", headers=other).status_code == 404
        assert client.delete(f"/task/{task_id}", headers=other).status_code == 404
        assert client.post(f"/task/{task_id}/retry", headers=other).status_code == 404
        assert client.get(f"/tasks?cursor={task_id}", headers=other).status_code == 422
    assert client.get("/tasks", headers=other).json()["items"] == []


def test_requires_a_login(client: TestClient) -> None:
    assert client.post("/notify").status_code == 401
    assert client.get("/tasks").status_code == 401
    assert client.get("/task/x").status_code == 401


# The tasks


def test_process_user_data(client: TestClient, user: dict[str, str]) -> None:
    user_id = client.get("/users/me", headers=user).json()["id"]
    expected = {"status": "processed", "user_id": user_id, "active_logins": 1}
    assert process_user_data(user_id) == expected


@pytest.mark.parametrize(("failures", "status"), [(3, "SUCCESS"), (4, "FAILURE")])
def test_unreliable_task_is_retried_three_times(failures: int, status: str) -> None:
    assert unreliable_task.apply(args=({"failures": failures},)).status == status


def test_cleanup_deletes_what_is_old(client: TestClient, user: dict[str, str]) -> None:
    job_id = later(client, user)
    assert cleanup_expired_tokens() == {"deleted": 0, "deleted_jobs": 0}
    old = utc_now() - timedelta(days=31)
    with session_scope() as session:
        session.query(RefreshToken).one().expires_at = old
    change(job_id, finished_at=old)
    assert cleanup_expired_tokens() == {"deleted": 1, "deleted_jobs": 1}


# The Celery application


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_scheduled_task_is_registered() -> None:
    celery_app.loader.import_default_modules()
    tasks = {entry["task"] for entry in celery_app.conf.beat_schedule.values()}
    assert tasks <= celery_app.tasks.keys()


def test_every_module_in_tasks_is_found() -> None:
    names = {f"app.tasks.{path.stem}" for path in TASKS.glob("[!_]*.py")}
    assert names == set(find_task_modules())


def test_settings_reach_celery() -> None:
    assert celery_app.conf.broker_url == settings.celery.CELERY_BROKER_URL
    assert celery_app.conf.result_backend == settings.celery.CELERY_RESULT_BACKEND
    assert celery_app.conf.worker_concurrency == settings.celery.CELERY_WORKER_CONCURRENCY


def test_bad_setting_is_named() -> None:
    result = run("app.jobs", "list", CELERY_BROKER_URL="amqp://localhost")
    assert result.returncode == 1
    assert "CELERY_BROKER_URL" in result.stderr
    assert "Traceback" not in result.stderr


def test_jobs_on_the_command_line(clean_database: None, redis: None) -> None:
    def output(*arguments: str) -> str:
        return CliRunner().invoke(command_line, arguments, catch_exceptions=False).output

    job_id = queue_for_later()
    assert job_id in output("list", "--status=PENDING")
    assert '"message": "hello"' in output("show", job_id)
    assert output("cancel", "--task=other", "--yes") == ""
    assert output("cancel", "--yes") == f"{job_id} REVOKED\n"
    assert output("retry", job_id) == f"{job_id} PENDING\n"
    output("schedule", "pause", "cleanup-expired-tokens")
    assert "paused" in output("schedule", "list")


def test_error_on_the_command_line_is_one_line(clean_database: None) -> None:
    result = run("app.jobs", "show", "unknown")
    lines = [line for line in result.stderr.splitlines() if not line.startswith(".env, line")]
    assert (result.returncode, lines) == (1, ["there is no job unknown"])
