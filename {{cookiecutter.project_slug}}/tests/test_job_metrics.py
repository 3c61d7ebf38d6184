"""The metrics of jobs and of the schedule."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery.schedules import crontab
from fastapi.testclient import TestClient
from prometheus_client import Metric

from app.core.celery import celery_app
from app.core.database import session_scope
from app.jobs import JobStatus, enqueue, get_job
from app.jobs.metrics import (
    compare_with_schedule,
    read_jobs,
    read_queues,
    read_schedule,
    read_workers,
)
from app.jobs.scheduler import JobScheduler
from app.models.job import Job
from app.tasks.example_task import send_notification
from tests.servers import wait_until

TASK = "app.tasks.example_task.send_notification"
HOUR = 60 * 60
DAY = 24 * HOUR


def values(metrics: list[Metric], name: str) -> dict[tuple[str, ...], float]:
    """Return the values of one of the metrics by label values."""
    samples = next(metric.samples for metric in metrics if metric.name == name)
    return {tuple(sample.labels.values()): sample.value for sample in samples}


def test_counts_jobs_that_finish(client: TestClient, worker: Path) -> None:
    with session_scope() as session:
        job_id = enqueue(session, send_notification, user_id=1, message="x").id

    def succeeded() -> bool:
        with session_scope() as session:
            return get_job(session, job_id).status == JobStatus.SUCCESS

    wait_until(succeeded)
    assert values(read_jobs(), "jobs_recent")[TASK, "SUCCESS"] == 1
    assert values(read_jobs(), "jobs_recent_attempts")[TASK, "SUCCESS"] == 1
    assert values(read_workers(), "workers")[()] == 1
    assert values(read_queues(), "queue_messages") == {("celery",): 0}


def test_counts_messages(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_notification, "queue", "without-worker", raising=False)
    send_notification.delay(user_id=1, message="x")
    assert values(read_queues(), "queue_messages")["without-worker",] == 1


def test_measures_how_long_jobs_wait(client: TestClient) -> None:
    assert values(read_jobs(), "jobs_oldest_due_age_seconds")[()] == 0
    with session_scope() as session:
        job = enqueue(session, send_notification, countdown=HOUR, user_id=1, message="x")
        session.flush()
    assert values(read_jobs(), "jobs")[TASK, "PENDING"] == 1
    assert values(read_jobs(), "jobs_oldest_due_age_seconds")[()] == 0
    with session_scope() as session:
        session.get_one(Job, job.id).due_at -= timedelta(hours=2)
    assert HOUR <= values(read_jobs(), "jobs_oldest_due_age_seconds")[()] < HOUR + 60


def test_measures_schedule_and_beat(client: TestClient) -> None:
    assert values(read_schedule(), "beat_age_seconds")[()] == float("inf")
    JobScheduler(celery_app).tick()
    assert values(read_schedule(), "beat_age_seconds")[()] < 10
    for name in ("last_success_age", "overdue", "period"):
        entries = values(read_schedule(), f"schedule_{name}_seconds")
        assert {key for (key,) in entries} == set(celery_app.conf.beat_schedule)


@pytest.mark.parametrize(
    ("schedule", "age", "period", "overdue"),
    [
        (timedelta(hours=1), HOUR / 2, HOUR, 0),
        (timedelta(hours=1), 3 * HOUR, HOUR, 2 * HOUR),
        (600, 900, 600, 300),
        (crontab(minute=0, hour=3), 0, DAY, 0),
    ],
)
def test_compares_the_last_success_with_the_schedule(
    schedule: object, age: float, period: float, overdue: float
) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    result = compare_with_schedule(schedule, now - timedelta(seconds=age))
    assert result == pytest.approx((period, overdue), abs=5)


def test_period_of_a_crontab_without_weekends_covers_the_weekend() -> None:
    friday = datetime(2024, 3, 1, 3, 5)  # A long time ago: the run on Monday is overdue.
    period, overdue = compare_with_schedule(
        crontab(minute=0, hour=3, day_of_week="mon-fri"), friday
    )
    monday = datetime(2024, 3, 4, 3, tzinfo=UTC)
    assert period == pytest.approx(DAY, abs=5)
    assert overdue == pytest.approx((datetime.now(UTC) - monday).total_seconds(), abs=5)
