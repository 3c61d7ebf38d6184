"""Metrics of jobs, queues, workers and the schedule, read at each scrape."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

from celery.schedules import maybe_schedule
from prometheus_client.core import Metric
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.celery import celery_app
from app.core.health import get_monitoring_engine
from app.core.metrics import gauge
from app.jobs._dispatcher import count_messages
from app.jobs._service import database_time
from app.models.job import BEAT, RUNNING, WAITING, Job, JobStatus, ScheduleState

# Only jobs that finished recently are counted: counting all of them would become slower and slower.
RECENT = timedelta(minutes=10)
# Seconds that workers have to answer.
INSPECT_TIMEOUT = 0.7


def read_jobs() -> list[Metric]:
    """Return the metrics of jobs.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database does not answer.
    """
    with Session(get_monitoring_engine()) as session:
        now = database_time(session)
        unfinished = session.execute(
            select(Job.task, Job.status, func.count(), func.min(Job.due_at))
            .where(Job.status.in_((*WAITING, *RUNNING, JobStatus.FAILURE)))
            .group_by(Job.task, Job.status)
        ).all()
        recent = session.execute(
            select(Job.task, Job.status, func.count(), func.sum(Job.attempts), func.sum(Job.lost))
            .where(Job.finished_at > now - RECENT)
            .group_by(Job.task, Job.status)
        ).all()
    due = [due_at for _, status, _, due_at in unfinished if status in WAITING]
    oldest = max([0.0, *((now - due_at).total_seconds() for due_at in due)])
    labels = ["task", "status"]
    return [
        gauge(
            "jobs",
            "Jobs that wait, run or have failed, by task and status.",
            labels,
            [((task, status), count) for task, status, count, _ in unfinished],
        ),
        gauge(
            "jobs_recent",
            "Jobs that finished in the last ten minutes, by task and status.",
            labels,
            [((task, status), count) for task, status, count, _, _ in recent],
        ),
        gauge(
            "jobs_recent_attempts",
            "Attempts of the jobs that finished in the last ten minutes.",
            labels,
            [((task, status), float(attempts)) for task, status, _, attempts, _ in recent],
        ),
        gauge(
            "jobs_recent_lost_attempts",
            "Attempts of these jobs whose process or worker was lost.",
            labels,
            [((task, status), float(lost)) for task, status, _, _, lost in recent],
        ),
        gauge(
            "jobs_oldest_due_age_seconds",
            "Time since the oldest job that has not begun was due.",
            [],
            [((), oldest)],
        ),
    ]


def read_queues() -> list[Metric]:
    """Return the metrics of queues.

    Raises:
        kombu.exceptions.OperationalError: Redis does not answer.
    """
    counts = count_messages(celery_app).items()
    return [
        gauge(
            "queue_messages",
            "Messages that wait in a queue.",
            ["queue"],
            [([queue], count) for queue, count in counts],
        )
    ]


def read_workers() -> list[Metric]:
    """Return the metrics of workers. One that does not answer in time is not counted.

    Raises:
        kombu.exceptions.OperationalError: Redis does not answer.
    """
    workers = celery_app.control.inspect(timeout=INSPECT_TIMEOUT).active() or {}
    running = Counter((worker, task["name"]) for worker, tasks in workers.items() for task in tasks)
    return [
        gauge("workers", "Workers that answer.", [], [((), len(workers))]),
        gauge(
            "worker_active_tasks",
            "Tasks that a worker is running.",
            ["worker", "task"],
            running.items(),
        ),
    ]


def read_schedule() -> list[Metric]:
    """Return the metrics of the schedule and of beat.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database does not answer.
    """
    with Session(get_monitoring_engine()) as session:
        now = database_time(session)
        states = {state.name: state for state in session.scalars(select(ScheduleState))}
    beat_age = (now - states[BEAT].last_run_at).total_seconds() if BEAT in states else inf
    ages, periods, overdue = [], [], []
    for name, entry in celery_app.conf.beat_schedule.items():
        if state := states.get(name):
            succeeded_at = state.last_success_at or state.created_at
            period, late = compare_with_schedule(entry["schedule"], succeeded_at)
            ages.append(([name], (now - succeeded_at).total_seconds()))
            periods.append(([name], period))
            overdue.append(([name], late))
    labels = ["schedule"]
    return [
        gauge("beat_age_seconds", "Time since beat last worked.", [], [((), beat_age)]),
        gauge(
            "schedule_last_success_age_seconds",
            "Time since the last success of an entry, or since the entry was added.",
            labels,
            ages,
        ),
        gauge(
            "schedule_overdue_seconds",
            "Time since the run that should have succeeded was due, or 0.",
            labels,
            overdue,
        ),
        gauge(
            "schedule_period_seconds",
            "Time between that run and the one after it.",
            labels,
            periods,
        ),
    ]


def schedule_age(name: str) -> float:
    """Return the seconds since an entry was added to the schedule; infinity if it was not yet.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The database does not answer.
    """
    with Session(get_monitoring_engine()) as session:
        state = session.get(ScheduleState, name)
        return (database_time(session) - state.created_at).total_seconds() if state else inf


def compare_with_schedule(schedule: Any, succeeded_at: datetime) -> tuple[float, float]:
    """Return the time to the run after the next one, and for how long the next one is overdue.

    Args:
        schedule: The schedule of an entry: a number of seconds, a crontab or another schedule.
        succeeded_at: The last success, in UTC without a time zone.
    """
    schedule = maybe_schedule(schedule, app=celery_app)
    last = succeeded_at.replace(tzinfo=UTC)
    until_next: timedelta = schedule.remaining_estimate(last)
    until_second: timedelta = schedule.remaining_estimate(schedule.now() + until_next)
    period = (until_second - until_next).total_seconds()
    return period, max(0.0, -until_next.total_seconds())
