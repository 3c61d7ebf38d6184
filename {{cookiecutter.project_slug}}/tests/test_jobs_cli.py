"""The command line of jobs: ``python -m app.jobs``."""

import json
import os
import subprocess
import sys

from app.core.database import session_scope
from app.jobs import Job, JobStatus, enqueue, get_job
from app.tasks.example_task import send_notification


def run(*arguments: str, code: int = 0) -> str:
    """Run the command line and return what it printed."""
    command = [sys.executable, "-m", "app.jobs", *arguments]
    result = subprocess.run(
        command, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout if code == 0 else result.stderr


def failed_job() -> str:
    """Store a failed job and return its id."""
    with session_scope() as session:
        job = enqueue(session, send_notification, countdown=60, user_id=1, message="hello")
        job.status = JobStatus.FAILURE
        return job.id


def read(job_id: str) -> Job:
    """Return the row of a job."""
    with session_scope() as session:
        return get_job(session, job_id)


def test_list_and_show(clean_database: None, redis: None) -> None:
    job_id = failed_job()
    assert job_id in run("list")
    assert [job["id"] for job in json.loads(run("list", "--json", "--status=FAILURE"))] == [job_id]
    assert json.loads(run("list", "--json", "--status=SUCCESS")) == []
    assert json.loads(run("show", job_id, "--json"))["kwargs"] == {"user_id": 1, "message": "hello"}


def test_retry_all_asks_first(clean_database: None, redis: None) -> None:
    job_id = failed_job()
    message = run("retry", "--since=1h", code=8)
    assert message == "confirm with --yes: there is no terminal to ask\n"
    assert run("retry", "--since=1h", "--yes") == "1 queued again\n"
    assert read(job_id).status != JobStatus.FAILURE


def test_cancel(clean_database: None, redis: None) -> None:
    with session_scope() as session:
        job_id = enqueue(session, send_notification, countdown=60, user_id=1, message="hello").id
    run("cancel", job_id)
    assert read(job_id).status == JobStatus.REVOKED


def test_errors_are_one_line(clean_database: None, redis: None) -> None:
    assert run("show", "unknown", code=3) == "there is no job unknown\n"
    assert "there is no job" in run("show", "\udcff", code=3)
    with session_scope() as session:
        job_id = enqueue(session, send_notification, countdown=60, user_id=1, message="hello").id
    assert "only failed and cancelled jobs" in run("retry", job_id, code=4)
