"""Tasks and a console for the fault tests, copied into the ``app/tasks/`` of a generated project.

What has run is written to a file, which no fault touches. Run as a program, the module evaluates
the expressions that it reads, one JSON string a line, and answers each with a line of JSON.
"""

import ctypes
import json
import os
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from app.core.celery import celery_app, with_db_init
from app.core.database import DATABASE_NOW, get_engine, session_scope
from app.jobs import Job, cancel_job, enqueue, get_job, list_jobs, retry_job, run_schedule
from app.jobs.publisher import database_time, message
from app.jobs.scheduler import JobScheduler, dispatch
from app.jobs.service import new_job
from app.models import ScheduleState
from app.tasks.example_task import send_notification
from celery import current_task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.signals import task_success
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

log = structlog.get_logger(__name__)


RUNS = Path(os.environ["RUNS_FILE"])


def runs() -> str:
    """Return what was written so far."""
    return RUNS.read_text() if RUNS.exists() else ""


def note(key: str, event: str) -> None:
    """Append a line; one write, so that lines of several processes do not mix."""
    line = f"{key} {event} {os.getpid()} {time.monotonic():.3f}\n"
    descriptor = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@celery_app.task
def nap(key: str, seconds: float = 0) -> str:
    """Sleep."""
    note(key, "start")
    time.sleep(seconds)
    note(key, "end")
    return key


@celery_app.task
def stubborn(key: str, seconds: float, then: float = 0) -> None:
    """Sleep and ignore the soft time limit; another time when it is run again."""
    if f"{key} start" in runs():
        seconds = then
    note(key, "start")
    for _ in range(int(seconds * 10)):  # Not by the clock: it goes on while the process is frozen.
        try:
            time.sleep(0.1)
        except SoftTimeLimitExceeded:
            note(key, "soft")


@celery_app.task
def crash(key: str, times: int = 1_000) -> str:
    """Crash the process that runs it, so many times."""
    note(key, "start")
    if runs().count(f"{key} start") <= times:
        ctypes.string_at(0)
    note(key, "end")
    return key


@celery_app.task
def leave(key: str) -> None:
    """End the process that runs it in an orderly way."""
    note(key, "start")
    sys.exit(3)


class OddError(Exception):
    """Its arguments are not JSON, and it cannot be unpickled."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"odd {type(one).__name__}", one, two)


class SilentError(Exception):
    """It has no text."""

    def __str__(self) -> str:
        raise RuntimeError


@celery_app.task
def outcome(key: str, kind: str) -> object:
    """End in one of several ways."""
    note(key, "start")
    match kind:
        case "object":
            return object()
        case "nan":
            return {"value": float("nan")}
        case "odd":
            raise OddError(object(), lambda: None)
        case "silent":
            raise SilentError
        case "base":
            raise GeneratorExit("no")
        case "large":
            return "x" * 2_000_000
        case "long":
            raise ValueError("x" * 2_000_000)
        case "deep":
            value: list[object] = []
            for _ in range(20_000):
                value = [value]
            return value
        case "surrogate":
            return "\ud800"
        case "text":
            raise ValueError("no \0 \ud800 é")
        case "ignore":
            raise Ignore
        case "reject":
            raise Reject("no", requeue=False)
    return kind


@celery_app.task(bind=True, max_retries=2)
def fail(self: Any, key: str, failures: int, delay: float = 0) -> int:
    """Fail so many times, then return the number of retries."""
    note(key, f"retries-{self.request.retries}")
    if runs().count(f"{key} retries") <= failures:
        raise self.retry(exc=ConnectionError("no connection"), countdown=delay)
    return int(self.request.retries)


@celery_app.task(bind=True)
def refused(self: Any, key: str, how: str) -> None:
    """Do what a job cannot do."""
    note(key, "start")
    match how:
        case "replace":
            self.replace(nap.si("replaced"))
        case "throw":
            self.retry(throw=False)
        case "queue":
            self.retry(queue="other")


@celery_app.task(bind=True)
def bound(self: Any, one: int, /, *rest: int, two: int = 2, **others: int) -> list[Any]:
    """Return its arguments."""
    return [one, rest, two, others]


@celery_app.task(queue="slow")
def slow(key: str) -> None:
    """Run in a queue of its own."""
    note(key, current_task.request.hostname.split("@")[0])


@celery_app.task(bind=True)
def retry_in_new_york(self: Any, key: str) -> None:
    """Retry after a minute, which is given as a time of another time zone."""
    note(key, "start")
    eta = datetime.now(ZoneInfo("America/New_York")) + timedelta(minutes=1)
    raise self.retry(exc=ConnectionError("no connection"), eta=eta)


@celery_app.task(bind=True, max_retries=2)
def crash_then_fail(self: Any, key: str) -> None:
    """Fail, except that the second attempt crashes the process."""
    note(key, f"retries-{self.request.retries}")
    if runs().count(f"{key} retries") == 2:
        ctypes.string_at(0)
    raise self.retry(exc=ConnectionError("no connection"), countdown=0)


if "WITHOUT_EXTRA" not in os.environ:

    @celery_app.task
    def extra(key: str) -> None:
        """Exist only in some processes."""
        note(key, "start")


@celery_app.task
def hold(key: str) -> str:
    """Wait for a file."""
    note(key, "start")
    while not Path(f"{RUNS}.{key}").exists():
        time.sleep(0.05)
    note(key, "end")
    return key


@celery_app.task(bind=True)
def progress(self: Any, key: str) -> str:
    """Report progress and wait for a file."""
    self.update_state(state="PROGRESS", meta={"done": 3})
    return hold(key)


@celery_app.task
@with_db_init
def with_database(key: str) -> str:
    """Use the database."""
    note(key, "end")
    return key


@celery_app.task
@with_db_init
def wrong_column(key: str) -> None:
    """Name a column that does not exist."""
    note(key, "start")
    with session_scope() as session:
        session.execute(text("SELECT missing FROM jobs"))


@celery_app.task
def family(key: str, generations: int) -> str:
    """Queue a child as a job and another one with ``delay()``."""
    log.info("family", key=key, generations=generations)
    note(key, "start")
    if generations:
        with session_scope() as session:
            enqueue(session, family, key=key, generations=generations - 1)
        family.delay(key, 0)
    return key


@celery_app.task
def parent(key: str, seconds: float) -> None:
    """Queue a child with ``delay()`` and sleep."""
    nap.delay(f"{key}-child", seconds)
    nap(key, seconds)


@celery_app.task
def tick() -> None:
    """Be due."""
    note("tick", "start")


@task_success.connect(sender=send_notification)
def note_notification(sender: Any, **_: object) -> None:
    """Note what ``POST /notify`` has queued, when it has run."""
    note(sender.request.id, "end")


@celery_app.task
def broken() -> None:
    """Fail."""
    raise OSError("disk full é \ud800")


celery_app.conf.beat_schedule["expires"] = {
    "task": "app.tasks.fault_tasks.nap",
    "schedule": 1e9,
    "args": ("expired",),
    "options": {"queue": "slow", "expires": 60},
}
if "BEAT_EVERY" in os.environ:
    every = {"schedule": float(os.environ["BEAT_EVERY"])}
    mine = "app.tasks.fault_tasks"
    celery_app.conf.beat_schedule = {
        "bad task": {**every, "task": "app.tasks.missing"},
        "bad arguments": {**every, "task": f"{mine}.tick", "args": (1,)},
        "bad options": {**every, "task": f"{mine}.tick", "options": {"priority": 1}},
        "bad schedule": {"task": f"{mine}.tick", "schedule": "often"},
        "bad kwargs": {**every, "task": f"{mine}.tick", "kwargs": {"a": object()}},
        "tick": {**every, "task": f"{mine}.tick"},
        "in slow": {
            **every,
            "task": f"{mine}.nap",
            "args": ("in-slow",),
            "options": {"queue": "slow", "expires": 60},
        },
        "broken": {**every, "task": f"{mine}.broken"},
    }


# The console


def add(task: str, count: int = 1, /, **kwargs: Any) -> list[str]:
    """Queue jobs in one transaction and return their ids."""
    function = celery_app.tasks[f"app.tasks.fault_tasks.{task}"]
    with session_scope() as session:
        return [enqueue(session, function, **kwargs).id for _ in range(count)]


def naps(keys: list[str], seconds: float = 0, countdown: float = 0) -> list[str]:
    """Queue a nap for each key in one transaction and return their ids."""
    with session_scope() as session:
        return [
            enqueue(session, nap, countdown=countdown, key=key, seconds=seconds).id for key in keys
        ]


def rows(*ids: str) -> list[dict[str, Any]]:
    """Return what the database has of some jobs, or of all."""
    with session_scope() as session:
        query = select(Job).order_by(Job.created_at)
        if ids:
            query = query.where(Job.id.in_(ids))
        columns = Job.__table__.columns.keys()
        return [{name: getattr(job, name) for name in columns} for job in session.scalars(query)]


def count() -> dict[str, int]:
    """Return the number of jobs in each state. The schedule's do not count: some are due at night."""
    with session_scope() as session:
        query = select(Job.status, func.count()).where(Job.schedule.is_(None))
        query = query.group_by(Job.status)
        return dict(session.execute(query).all())


def cancel(job_id: str) -> str:
    """Cancel a job and return its state."""
    with session_scope() as session:
        return cancel_job(session, job_id).status


def retry(job_id: str) -> str:
    """Retry a job and return its state."""
    with session_scope() as session:
        return retry_job(session, job_id).status


def again(job_id: str, round: int = 0) -> None:
    """Send the message of a round again."""
    with session_scope() as session:
        job = get_job(session, job_id)
        job.round = round
        send = message(job)
        session.rollback()
    send()


def age(job_id: str, seconds: float, since_sent: float) -> None:
    """Let a job have been due for some time, and its last message have been sent after that."""
    with session_scope() as session:
        now = database_time(session)
        job = get_job(session, job_id)
        job.due_at = now - timedelta(seconds=seconds)
        job.resend_after = now - timedelta(seconds=since_sent)


def clear() -> None:
    """Delete all jobs and the state of the schedule."""
    names["session"].rollback()
    with session_scope() as session:
        session.execute(delete(Job))
        session.execute(delete(ScheduleState))


def change(job_id: str, **values: Any) -> None:
    """Change the row of a job."""
    with session_scope() as session:
        session.execute(update(Job).where(Job.id == job_id).values(values))


names: dict[str, Any] = {"DATABASE_NOW": DATABASE_NOW, "dispatch": dispatch, "new_job": new_job}
names |= {"list_jobs": list_jobs, "run_schedule": run_schedule, "JobScheduler": JobScheduler}


def main() -> None:
    """Answer until the input ends. Logs go to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    names.update(globals())
    names["session"] = Session(get_engine())
    for line in sys.stdin:
        try:
            answer = {"value": eval(json.loads(line), names)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), file=answers, flush=True)


if __name__ == "__main__":
    # Under its own name, so that tasks are registered once.
    from app.tasks import fault_tasks

    fault_tasks.main()
