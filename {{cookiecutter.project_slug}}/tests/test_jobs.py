"""Jobs: queueing in a transaction, claiming, outcomes, recovery, and the routes."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Task
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.celery import celery_app
from app.core.config.settings import settings
from app.core.database import DATABASE_NOW, get_engine, session_scope
from app.jobs import Job, JobStatus, cancel_job, delete_finished_jobs, enqueue, get_job, retry_job
from app.jobs._dispatcher import IN_FLIGHT, dispatch
from app.jobs._service import database_time
from app.jobs._worker import Attempt
from app.jobs.scheduler import JobScheduler
from app.models import ScheduleState
from app.tasks.example_task import (
    invite_user,
    process_user_data,
    send_notification,
    unreliable_task,
)
from tests.conftest import login
from tests.servers import wait_until

FINISHED = ("SUCCESS", "FAILURE", "REVOKED", "IGNORED")


def queue(task: Task[..., Any], owner_id: int | None = None, **kwargs: Any) -> str:
    """Queue a job in a transaction of its own and return its id."""
    with session_scope() as session:
        return enqueue(session, task, owner_id=owner_id, **kwargs).id


def waiting(owner_id: int | None = None) -> str:
    """Store a job that no worker takes during the test, and return its id."""
    return queue(send_notification, owner_id, countdown=3600, user_id=1, message="hello")


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
    """Wait until a job is finished and return its row."""
    wait_until(lambda: read(job_id).status in FINISHED)
    return read(job_id)


def notify(client: TestClient, headers: dict[str, str]) -> str:
    """Queue a notification through the API and return its task id."""
    parameters: dict[str, str | int] = {"user_id": 1, "message": "hello"}
    response = client.post("/notify", params=parameters, headers=headers)
    assert response.status_code == 202
    assert response.json()["status"] == "queued"
    return str(response.json()["task_id"])


def user_id(client: TestClient, headers: dict[str, str]) -> int:
    """Return the id of a logged-in user."""
    return int(client.get("/users/me", headers=headers).json()["id"])


# In the transaction


def test_rolled_back_job_does_not_exist(clean_database: None) -> None:
    with Session(get_engine()) as session:
        enqueue(session, send_notification, user_id=1, message="hello")
        session.flush()
        session.rollback()
    with session_scope() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"user_id": 1, "message": object()}, TypeError),
        ({"user_id": float("nan"), "message": "hello"}, ValueError),
        ({"user_id": 1, "message": "\ud800"}, ValueError),
        ({"user_id": 1, "message": "hello", "countdown": float("inf")}, ValueError),
        ({"user_id": 1}, TypeError),
        ({"user_id": 1, "message": "hello", "colour": "red"}, TypeError),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    clean_database: None, kwargs: dict[str, Any], error: type[Exception]
) -> None:
    with session_scope() as session:
        with pytest.raises(error):
            enqueue(session, send_notification, **kwargs)
        assert session.scalar(select(func.count()).select_from(Job)) == 0


# Attempts


def test_attempt_is_claimed_once(clean_database: None, redis: None) -> None:
    job_id = waiting()
    assert Attempt(job_id, 0, 1).claim("first")
    assert not Attempt(job_id, 0, 1).claim("second")
    assert read(job_id).worker == "first"


def test_cancelled_job_is_not_claimed(clean_database: None, redis: None) -> None:
    job_id = waiting()
    with session_scope() as session:
        cancel_job(session, job_id)
    assert not Attempt(job_id, 0, 1).claim("worker")


def test_attempt_whose_process_ended_is_put_back(clean_database: None, redis: None) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    job_id = waiting()
    change(job_id, status=JobStatus.STARTED, attempts=1, worker="worker", pid=process.pid)
    assert not Attempt(job_id, 0, 1).claim("another worker")
    assert read(job_id).status == JobStatus.STARTED
    assert not Attempt(job_id, 0, 1).claim("worker")
    assert read(job_id).lost == 1


def test_attempt_that_was_replaced_records_nothing(clean_database: None, redis: None) -> None:
    job_id = waiting()
    slow = Attempt(job_id, 0, 1)
    assert slow.claim("slow")
    change(job_id, status=JobStatus.PENDING, series=1)  # It was put back.
    assert Attempt(job_id, 1, 2).claim("quick")
    slow.finish(JobStatus.SUCCESS, "late")
    assert read(job_id).status == JobStatus.STARTED


# Outcomes, on a real worker


def test_success(clean_database: None, worker: Path) -> None:
    job = finished(queue(send_notification, user_id=1, message="hello"))
    assert (job.status, job.result) == ("SUCCESS", {"status": "sent", "user_id": 1})
    assert job.attempts == 1


def test_failure_keeps_the_error(clean_database: None, worker: Path) -> None:
    job = finished(queue(process_user_data, user_id=99))
    assert (job.status, job.result) == ("FAILURE", "LookupError: there is no user 99")


def test_retries_are_attempts_of_the_same_job(clean_database: None, worker: Path) -> None:
    job = finished(queue(unreliable_task, data={"failures": 1}))
    assert (job.status, job.attempts) == ("SUCCESS", 2)


def test_failed_job_runs_again_when_it_is_retried(clean_database: None, worker: Path) -> None:
    job_id = queue(process_user_data, user_id=99)
    assert finished(job_id).status == "FAILURE"
    with session_scope() as session:
        retry_job(session, job_id)
    wait_until(lambda: read(job_id).attempts == 2 and read(job_id).status == "FAILURE")


def test_plain_delay_works_as_in_celery(worker: Path) -> None:
    result = send_notification.delay(1, "hello")
    assert result.get(timeout=20) == {"status": "sent", "user_id": 1}


def test_job_can_run_twice_with_one_effect(clean_database: None, worker: Path) -> None:
    first = finished(queue(invite_user, email="new@example.com"))
    second = finished(queue(invite_user, email="new@example.com"))
    assert first.result == second.result


# The dispatcher


def test_dispatcher_publishes_what_is_due(clean_database: None, worker: Path) -> None:
    job_id = queue(send_notification, countdown=3600, user_id=1, message="later")
    dispatch(celery_app)
    assert read(job_id).published_at is None
    change(job_id, due_at=DATABASE_NOW)
    dispatch(celery_app)
    assert finished(job_id).status == "SUCCESS"


def test_dispatcher_publishes_what_was_lost(clean_database: None, worker: Path) -> None:
    with session_scope() as session:
        job = enqueue(session, send_notification, user_id=1, message="lost", countdown=1)
        job.published_at = database_time(session) - 2 * IN_FLIGHT
    dispatch(celery_app)
    assert finished(job.id).status == "SUCCESS"


def test_dispatcher_publishes_each_job_once(
    clean_database: None, worker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if publishing all of them took longer than ``IN_FLIGHT``.
    monkeypatch.setattr("app.jobs._dispatcher.BATCH", 1)
    monkeypatch.setattr("app.jobs._dispatcher.IN_FLIGHT", timedelta(0))
    ids = [waiting() for _ in range(20)]
    for job_id in ids:
        change(job_id, due_at=DATABASE_NOW)
    assert dispatch(celery_app) == 20
    assert all(finished(job_id).attempts == 1 for job_id in ids)


def test_attempt_without_outcome_is_put_back_after_its_time_limit(
    clean_database: None, redis: None
) -> None:
    job_id = waiting()
    assert Attempt(job_id, 0, 1).claim("gone")
    dispatch(celery_app)
    assert read(job_id).status == JobStatus.STARTED
    with session_scope() as session:
        before = database_time(session) - timedelta(hours=1)
    change(job_id, started_at=before)
    dispatch(celery_app)
    job = read(job_id)
    assert (job.lost, job.series) == (1, 1)


def test_job_that_was_lost_too_often_fails(clean_database: None, redis: None) -> None:
    job_id = waiting()
    assert Attempt(job_id, 0, 1).claim("gone")
    with session_scope() as session:
        before = database_time(session) - timedelta(hours=1)
    change(job_id, started_at=before, lost=settings.celery.JOB_MAX_ATTEMPTS - 1)
    dispatch(celery_app)
    job = read(job_id)
    assert job.status == JobStatus.FAILURE
    assert "lost" in job.result


def test_job_of_an_unknown_task_fails(clean_database: None, redis: None) -> None:
    job_id = queue(send_notification, countdown=1, user_id=1, message="hello")
    change(job_id, task="app.tasks.removed", due_at=DATABASE_NOW)
    dispatch(celery_app)
    assert read(job_id).result == "NotRegistered: there is no task app.tasks.removed"


# The schedule


def test_schedule_queues_each_run_once(clean_database: None, worker: Path) -> None:
    beats = [JobScheduler(celery_app), JobScheduler(celery_app)]
    for beat in beats:
        beat.tick()
    with session_scope() as session:
        for state in session.scalars(select(ScheduleState)):
            state.last_run_at -= timedelta(days=1)
    for beat in beats:
        beat.tick()
    with session_scope() as session:
        queued = {job.schedule: job.id for job in session.scalars(select(Job))}
        assert session.scalar(select(func.count()).select_from(Job)) == len(queued)
    assert queued.keys() == celery_app.conf.beat_schedule.keys()
    # It deletes jobs, and must not do so while the next test runs.
    assert finished(queued["cleanup-expired-tokens"]).status == "SUCCESS"


# Retention


def test_old_finished_jobs_are_deleted(clean_database: None, redis: None) -> None:
    old, new = waiting(), waiting()
    with session_scope() as session:
        now = database_time(session)
    days = settings.celery.JOB_RETENTION_DAYS
    change(old, status=JobStatus.SUCCESS, finished_at=now - timedelta(days=days, minutes=1))
    change(new, status=JobStatus.SUCCESS, finished_at=now)
    with session_scope() as session:
        assert delete_finished_jobs(session) == 1


# The routes


def test_notification_is_sent(client: TestClient, user: dict[str, str], worker: Path) -> None:
    task_id = notify(client, user)
    finished(task_id)
    assert client.get(f"/task/{task_id}", headers=user).json() == {
        "task_id": task_id,
        "status": "SUCCESS",
        "result": {"status": "sent", "user_id": 1},
    }


def test_progress_is_shown(client: TestClient, user: dict[str, str]) -> None:
    task_id = waiting(user_id(client, user))
    attempt = Attempt(task_id, 0, 1)
    assert attempt.claim("worker")
    task: Any = send_notification
    task.push_request(id=task_id, attempt=attempt)
    task.update_state(state="PROGRESS", meta={"done": 3})
    task.pop_request()
    state = client.get(f"/task/{task_id}", headers=user).json()
    assert (state["status"], state["result"]) == ("PROGRESS", {"done": 3})


def test_tasks_are_listed_in_pages_newest_first(client: TestClient, user: dict[str, str]) -> None:
    ids = [notify(client, user) for _ in range(5)]
    listed: list[str] = []
    cursor = None
    while True:
        parameters = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/tasks", params=parameters, headers=user).json()
        listed += [item["task_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert listed == ids[::-1]


def test_tasks_are_filtered_by_status(client: TestClient, user: dict[str, str]) -> None:
    cancelled, _ = (waiting(user_id(client, user)) for _ in range(2))
    client.delete(f"/task/{cancelled}", headers=user)
    page = client.get("/tasks", params={"status": "REVOKED"}, headers=user).json()
    assert [item["task_id"] for item in page["items"]] == [cancelled]


@pytest.mark.parametrize("query", ["cursor=unknown", "status=LATE", "limit=0", "limit=101"])
def test_unknown_filter_is_refused(client: TestClient, user: dict[str, str], query: str) -> None:
    assert client.get(f"/tasks?{query}", headers=user).status_code == 422


def test_cancelled_task_can_be_retried(client: TestClient, user: dict[str, str]) -> None:
    task_id = waiting(user_id(client, user))
    assert client.delete(f"/task/{task_id}", headers=user).json()["status"] == "REVOKED"
    response = client.post(f"/task/{task_id}/retry", headers=user)
    assert (response.status_code, response.json()["status"]) == (202, "PENDING")


def test_waiting_task_cannot_be_retried(client: TestClient, user: dict[str, str]) -> None:
    task_id = waiting(user_id(client, user))
    assert client.post(f"/task/{task_id}/retry", headers=user).status_code == 409


def test_task_of_another_user_is_not_found(client: TestClient, user: dict[str, str]) -> None:
    task_id = notify(client, user)
    other = login(client, "other@example.com")
    assert client.get(f"/task/{task_id}", headers=user).status_code == 200
    assert client.get(f"/task/{task_id}", headers=other).status_code == 404
    assert client.delete(f"/task/{task_id}", headers=other).status_code == 404
    assert client.post(f"/task/{task_id}/retry", headers=other).status_code == 404
    assert client.get("/tasks", headers=other).json()["items"] == []


@pytest.mark.parametrize(
    "task_id", ["unknown", "3f2c9a50-0000-4000-8000-000000000000", "é", "a%00b"]
)
def test_unknown_task_is_not_found(client: TestClient, user: dict[str, str], task_id: str) -> None:
    assert client.get(f"/task/{task_id}", headers=user).status_code == 404
    assert client.delete(f"/task/{task_id}", headers=user).status_code == 404
    assert client.post(f"/task/{task_id}/retry", headers=user).status_code == 404
    assert client.get(f"/tasks?cursor={task_id}", headers=user).status_code == 422


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/notify"), ("GET", "/tasks"), ("GET", "/task/x"), ("DELETE", "/task/x")],
)
def test_requires_authentication(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 401


def test_too_many_waiting_tasks_are_refused(
    client: TestClient, user: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_id = user_id(client, user)
    limited = settings.celery.model_copy(update={"JOB_MAX_WAITING_PER_USER": 2})
    monkeypatch.setattr("app.api.routes.tasks.settings", type("S", (), {"celery": limited}))
    cancelled, *_ = [waiting(owner_id) for _ in range(3)]
    client.delete(f"/task/{cancelled}", headers=user)
    for path in ("/notify?user_id=1&message=hello", f"/task/{cancelled}/retry"):
        response = client.post(path, headers=user)
        assert response.status_code == 429
        assert response.headers["Retry-After"]
