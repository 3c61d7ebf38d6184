"""What the benchmarks run inside a generated project: a copy becomes ``app/tasks/bench.py``."""

import time
from typing import Any
from uuid import uuid4

from app.core.celery import celery_app
from app.core.database import DATABASE_NOW, session_scope
from app.jobs import Job, enqueue
from app.jobs.scheduler import dispatch
from sqlalchemy import delete, func, insert, select, update


@celery_app.task
def noop(number: int) -> int:
    """Do nothing."""
    return number


def queue(how: str, count: int) -> None:
    """Queue tasks with ``.delay()``, or jobs with a transaction each."""
    for number in range(count):
        if how == "delay":
            noop.delay(number)
        else:
            with session_scope() as session:
                enqueue(session, noop, number=number)


def finished(how: str) -> int:
    """Return how many tasks or jobs have succeeded."""
    if how == "delay":
        return int(celery_app.backend.client.dbsize())
    with session_scope() as session:
        return session.scalar(select(func.count()).where(Job.status == "SUCCESS")) or 0


def run(how: str, count: int) -> float:
    """Queue tasks or jobs while workers run them; return how many were done per second."""
    before, start = finished(how), time.perf_counter()
    queue(how, count)
    while finished(how) < before + count:
        time.sleep(0.02)
    return count / (time.perf_counter() - start)


def reset(keep: str = "") -> None:
    """Delete all jobs but one."""
    with session_scope() as session:
        session.execute(delete(Job).where(Job.id != keep))


def measure_waiting(count: int) -> list[float]:
    """Return what the operations cost with so many jobs waiting, in milliseconds."""
    row = {"task": noop.name, "args": [], "kwargs": {"number": 1}, "resend_after": None}
    with session_scope() as session:
        for _ in range(count // 1000):
            rows = [{"id": str(uuid4()), **row} for _ in range(1000)]
            session.execute(insert(Job).execution_options(render_nulls=True), rows)
    published = timed(publish_all) / count
    with session_scope() as session:  # So that the dispatcher looks for lost messages, too.
        first = select(Job.id).order_by(Job.resend_after).limit(1).scalar_subquery()
        values = {"status": "STARTED", "started_at": DATABASE_NOW}
        session.execute(update(Job).where(Job.id == first).values(values))
    idle = timed(lambda: dispatch(celery_app))
    queued = timed(lambda: queue("enqueue", 300)) / 300
    return [published, idle, queued]


def publish_all() -> None:
    """Dispatch until nothing is left, as Beat does."""
    while dispatch(celery_app):
        pass


def timed(function: Any) -> float:
    """Return how many milliseconds a function takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000
