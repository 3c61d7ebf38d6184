"""Jobs: in the caller's transaction, on a real worker, and when something was lost."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Task
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.celery import celery_app
from app.core.database import get_engine, session_scope
from app.jobs import Job, JobStatus, cancel_job, enqueue, retry_job
from app.jobs.publisher import database_time, message
from app.jobs.scheduler import dispatch
from app.jobs.task import check_task
from app.tasks.example_task import process_user_data, send_notification, unreliable_task
from tests.conftest import change, finished, queue, queue_for_later, read

HELLO: dict[str, Any] = {"user_id": 1, "message": "hello"}


def count_jobs() -> int:
    """Return the number of jobs."""
    with session_scope() as session:
        return session.scalars(select(func.count()).select_from(Job)).one()


# In the caller's transaction


@pytest.mark.parametrize("unique", [None, "hello:1"])
def test_job_rolls_back_with_its_transaction(clean_database: None, unique: str | None) -> None:
    with Session(get_engine()) as session:
        enqueue(session, send_notification, unique=unique, **HELLO)
        session.flush()
        session.rollback()
    assert count_jobs() == 0


@pytest.mark.parametrize(
    "arguments",
    [{"user_id": 1}, HELLO | {"colour": "red"}, HELLO | {"message": "x" * 2_000_000}],
)
def test_refuses_bad_arguments(clean_database: None, arguments: dict[str, Any]) -> None:
    with session_scope() as session, pytest.raises((TypeError, ValueError)):
        enqueue(session, send_notification, **arguments)
    assert count_jobs() == 0


def test_unique_job_is_queued_once(clean_database: None, redis: None) -> None:
    first, second = (
        queue(send_notification, unique="hello:1", countdown=60, **HELLO) for _ in range(2)
    )
    assert second == first
    with session_scope() as session:
        cancel_job(session, first)
    assert queue(send_notification, unique="hello:1", countdown=60, **HELLO) != first


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"priority": 3}, "has a priority"),
        ({"rate_limit": "1/s"}, "has a rate_limit"),
        ({"base": Task}, "bypasses JobTask"),
    ],
)
@pytest.mark.filterwarnings(r"ignore:\s+The 'priority'")
def test_refuses_a_task_that_cannot_be_a_job(options: dict[str, Any], problem: str) -> None:
    declare: Any = celery_app.task(name=problem, **options)
    task = declare(count_jobs)
    with pytest.raises(TypeError, match=problem):
        check_task(task)
    celery_app.tasks.unregister(problem)


# On a real worker


def test_failure_can_be_retried(clean_database: None, worker: Path) -> None:
    job_id = queue(process_user_data, user_id=99)
    assert finished(job_id).result == "LookupError: there is no user 99"
    change(job_id, task=send_notification.name, kwargs=HELLO)
    with session_scope() as session:
        retry_job(session, job_id)
    assert finished(job_id).status == "SUCCESS"


def test_retries_are_attempts_of_the_same_job(clean_database: None, worker: Path) -> None:
    job_id = queue(unreliable_task, data={"failures": 1})
    for attempts in (1, 2):
        while read(job_id).attempts < attempts:
            dispatch(celery_app)  # As beat does.
    job = finished(job_id)
    assert (job.status, job.result) == ("SUCCESS", {"status": "done", "attempts": 2})


def test_message_that_arrives_twice_runs_once(clean_database: None, worker: Path) -> None:
    job = finished(queue(send_notification, **HELLO))
    message(job)()
    finished(queue(send_notification, **HELLO))
    assert read(job.id).attempts == 1


def test_plain_delay_works_as_in_celery(worker: Path) -> None:
    result = send_notification.delay(1, "hello")
    assert result.get(timeout=20) == {"status": "sent", "user_id": 1}


# When something was lost: what beat does every two seconds


def test_lost_message_is_sent_again(clean_database: None, worker: Path) -> None:
    job_id = queue_for_later()
    with session_scope() as session:
        before = database_time(session) - timedelta(seconds=20)
    change(job_id, due_at=before, resend_after=before)
    assert dispatch(celery_app) == 1
    assert dispatch(celery_app) == 0
    assert finished(job_id).attempts == 1


def test_lost_attempt_is_queued_again(clean_database: None, worker: Path) -> None:
    job_id = queue_for_later()
    with session_scope() as session:  # The worker was killed, and the time limit is over.
        before = database_time(session) - timedelta(hours=1)
    change(job_id, status=JobStatus.STARTED, attempts=1, deadline=before)
    dispatch(celery_app)
    job = finished(job_id)
    assert (job.status, job.attempts, job.lost) == ("SUCCESS", 2, 1)
