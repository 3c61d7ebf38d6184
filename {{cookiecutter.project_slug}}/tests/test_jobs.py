"""The whole way: API, Redis, worker, database, result."""

import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from tests.conftest import login
from tests.servers import free_port, listens, server, wait_until


def wait_for(client: TestClient, headers: dict[str, str], task_id: str) -> dict[str, Any]:
    """Return the task's state once it has ended."""
    ended = ("SUCCESS", "FAILURE", "REVOKED")
    state: dict[str, Any] = {}

    def has_ended() -> bool:
        state.update(client.get(f"/task/{task_id}", headers=headers).json())
        return state["status"] in ended

    wait_until(has_ended)
    return state


def queue(client: TestClient, headers: dict[str, str]) -> str:
    """Queue a notification and return the task's id."""
    parameters: dict[str, str | int] = {"user_id": 1, "message": "hello"}
    response = client.post("/notify", params=parameters, headers=headers)
    assert response.status_code == 202
    assert response.json()["status"] == "queued"
    return str(response.json()["task_id"])


def test_notification_is_sent(client: TestClient, user: dict[str, str], worker: Path) -> None:
    task_id = queue(client, user)
    assert wait_for(client, user, task_id) == {
        "task_id": task_id,
        "status": "SUCCESS",
        "result": {"status": "sent", "user_id": 1},
    }


def test_task_with_the_database(client: TestClient, user: dict[str, str], worker: Path) -> None:
    from app.services.jobs import new_job_id
    from app.tasks.example_task import process_user_data

    user_id = client.get("/users/me", headers=user).json()["id"]
    task_id = new_job_id(user_id)
    process_user_data.apply_async((user_id,), task_id=task_id)
    result = wait_for(client, user, task_id)["result"]
    assert result == {"status": "processed", "user_id": user_id, "active_logins": 1}


def test_failed_task_tells_its_error(
    client: TestClient, user: dict[str, str], worker: Path
) -> None:
    from app.services.jobs import new_job_id
    from app.tasks.example_task import process_user_data

    user_id = client.get("/users/me", headers=user).json()["id"]
    task_id = new_job_id(user_id)
    process_user_data.apply_async((99,), task_id=task_id)
    state = wait_for(client, user, task_id)
    assert (state["status"], state["result"]) == ("FAILURE", "LookupError: there is no user 99")


def test_task_of_another_user_is_unknown(client: TestClient, user: dict[str, str]) -> None:
    task_id = queue(client, user)
    other = login(client, "other@example.com")
    assert client.get(f"/task/{task_id}", headers=user).status_code == 200
    assert client.get(f"/task/{task_id}", headers=other).status_code == 404
    assert client.delete(f"/task/{task_id}", headers=other).status_code == 404


@pytest.mark.parametrize("task_id", ["no-such-task", "3f2c9a50-0000-4000-8000-000000000000", "é"])
def test_unknown_task(client: TestClient, user: dict[str, str], task_id: str) -> None:
    assert client.get(f"/task/{task_id}", headers=user).status_code == 404


@pytest.mark.parametrize(("method", "path"), [("POST", "/notify"), ("GET", "/task/x")])
def test_nobody_has_tasks(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 401


@pytest.mark.parametrize("field", ["user_id", "message"])
def test_bad_notification_names_the_field(
    client: TestClient, user: dict[str, str], field: str
) -> None:
    parameters = {"user_id": "1", "message": "hello"}
    parameters[field] = ""
    response = client.post("/notify", params=parameters, headers=user)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["query", field]


def test_revoked_task_does_not_run(client: TestClient, user: dict[str, str], worker: Path) -> None:
    from app.services.jobs import new_job_id
    from app.tasks.example_task import send_notification

    user_id = client.get("/users/me", headers=user).json()["id"]
    task_id = new_job_id(user_id)
    send_notification.apply_async((1, "later"), task_id=task_id, countdown=60)
    assert client.delete(f"/task/{task_id}", headers=user).status_code == 200
    assert wait_for(client, user, task_id)["status"] == "REVOKED"


def test_progress_is_shown(client: TestClient, user: dict[str, str]) -> None:
    from app.core.celery import celery_app
    from app.services.jobs import PROGRESS, new_job_id

    user_id = client.get("/users/me", headers=user).json()["id"]
    task_id = new_job_id(user_id)
    backend: Any = celery_app.backend
    backend.store_result(task_id, {"done": 3}, PROGRESS)
    state = client.get(f"/task/{task_id}", headers=user).json()
    assert (state["status"], state["result"]) == (PROGRESS, {"done": 3})


def test_queue_away_is_unavailable_soon(
    client: TestClient, user: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, name in enumerate(("REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")):
        monkeypatch.setenv(name, f"redis://127.0.0.1:{free_port()}/{number}")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port)]
    with (
        server(command, tmp_path / "log", lambda: listens(port)),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=user) as api,
    ):
        response = api.post("/notify", params={"user_id": 1, "message": "hello"})
        assert response.status_code == 503
        assert response.headers["Retry-After"]
        assert response.elapsed.total_seconds() < 3
        assert api.get("/users/me").status_code == 200
        assert api.get("/health/ready").json()["dependencies"]["broker"] == "down"
