"""The schedule: due runs, pauses, mistakes, and reports to ``SCHEDULE_PING_URL``."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.core.celery import celery_app
from app.core.config.settings import settings
from app.core.database import session_scope
from app.jobs import Job, JobStateError, JobStatus, list_schedule, run_schedule
from app.jobs.publisher import finish
from app.jobs.scheduler import JobScheduler
from app.models import ScheduleState
from tests.conftest import finished
from tests.servers import wait_until

CLEANUP = "cleanup-expired-tokens"


@pytest.fixture(autouse=True)
def all_tasks() -> None:
    """Import all tasks, as beat does."""
    celery_app.loader.import_default_modules()


def pass_a_day() -> None:
    """Make every entry of the schedule due."""
    with session_scope() as session:
        for state in session.scalars(select(ScheduleState)):
            state.last_run_at -= timedelta(days=1)


def queued() -> dict[str | None, str]:
    """Return the ids of all jobs, by the entry that queued them."""
    with session_scope() as session:
        jobs = session.scalars(select(Job)).all()
    assert len(jobs) == len({job.schedule for job in jobs}), "a run was queued twice"
    return {job.schedule: job.id for job in jobs}


def test_each_run_is_queued_once(clean_database: None, worker: Path) -> None:
    beats = [JobScheduler(celery_app), JobScheduler(celery_app)]
    for beat in beats:
        beat.tick()
    assert queued() == {}
    pass_a_day()
    for beat in beats:
        beat.tick()
    assert queued().keys() == celery_app.conf.beat_schedule.keys()
    assert finished(queued()[CLEANUP]).status == JobStatus.SUCCESS
    with session_scope() as session:
        state = dict(list_schedule(session))[CLEANUP]
        assert state
        assert state.last_success_at


@pytest.mark.parametrize("mistake", [{"kwargs": {"colour": "red"}}, {"options": {"priority": 3}}])
def test_mistake_in_one_entry_stops_no_other(
    clean_database: None, redis: None, monkeypatch: pytest.MonkeyPatch, mistake: dict[str, Any]
) -> None:
    entry = celery_app.conf.beat_schedule[CLEANUP]
    monkeypatch.setitem(celery_app.conf.beat_schedule, "bad", entry | mistake)
    JobScheduler(celery_app).tick()
    pass_a_day()
    JobScheduler(celery_app).tick()
    assert queued().keys() == celery_app.conf.beat_schedule.keys() - {"bad"}
    with session_scope() as session, pytest.raises(JobStateError):
        run_schedule(session, "bad")


@pytest.fixture
def pings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Paths and bodies of the requests that ``SCHEDULE_PING_URL`` gets."""
    received: list[tuple[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received.append((self.path, body))
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/key"
        monkeypatch.setattr(settings.celery, "SCHEDULE_PING_URL", url)
        yield received
        server.shutdown()
        thread.join()


def test_finished_runs_report_themselves(clean_database: None, pings: list[Any]) -> None:
    with session_scope() as session:
        finish(run_schedule(session, CLEANUP), JobStatus.SUCCESS, {"deleted": 0})
        finish(run_schedule(session, CLEANUP), JobStatus.FAILURE, "OSError: disk full")
        assert pings == [], "reported before the commit"
    wait_until(lambda: len(pings) == 2)
    assert pings == [(f"/key/{CLEANUP}", ""), (f"/key/{CLEANUP}/fail", "OSError: disk full")]
