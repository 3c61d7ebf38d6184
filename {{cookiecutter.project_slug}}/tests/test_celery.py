"""The Celery application: its tasks, its schedule, its settings and its command lines."""

import os
import subprocess
import sys

import pytest

from app.core.celery import TASKS, celery_app, find_task_modules
from app.core.config.settings import settings
from tests.jobs import queue_for_later, read

CELERY = ("celery", "-A", "app.core.celery.celery_app")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_scheduled_task_is_registered() -> None:
    celery_app.loader.import_default_modules()
    tasks = {entry["task"] for entry in celery_app.conf.beat_schedule.values()}
    assert tasks <= celery_app.tasks.keys()


def test_every_module_in_tasks_is_found() -> None:
    names = {f"app.tasks.{path.stem}" for path in TASKS.glob("[!_]*.py")}
    assert names == set(find_task_modules())


@pytest.mark.parametrize(
    ("option", "variable"),
    [
        ("broker_url", "CELERY_BROKER_URL"),
        ("result_backend", "CELERY_RESULT_BACKEND"),
        ("task_serializer", "CELERY_TASK_SERIALIZER"),
        ("result_serializer", "CELERY_RESULT_SERIALIZER"),
        ("timezone", "CELERY_TIMEZONE"),
        ("enable_utc", "CELERY_ENABLE_UTC"),
        ("worker_concurrency", "CELERY_WORKER_CONCURRENCY"),
    ],
)
def test_settings_reach_celery(option: str, variable: str) -> None:
    assert str(celery_app.conf[option]) == str(getattr(settings.celery, variable))


@pytest.mark.parametrize(
    ("variable", "value"), [("CELERY_BROKER_URL", "amqp://localhost"), ("CELERY_TIMEZONE", "Mars")]
)
def test_bad_setting_is_named(variable: str, value: str) -> None:
    result = run(*CELERY, "report", **{variable: value})
    assert result.returncode != 0
    assert variable in result.stderr
    assert "Traceback" not in result.stderr


def test_jobs_on_the_command_line(clean_database: None, redis: None) -> None:
    job_id = queue_for_later()
    assert job_id in run("app.jobs", "list", "--status=PENDING").stdout
    assert '"message": "hello"' in run("app.jobs", "show", job_id).stdout
    assert run("app.jobs", "cancel", "--task=other", "--yes").stdout == "0 cancelled\n"
    assert run("app.jobs", "cancel", "--yes").stdout == "1 cancelled\n"
    assert read(job_id).status == "REVOKED"
    assert run("app.jobs", "retry", job_id).stdout == "1 queued again\n"
    assert run("app.jobs", "schedule", "pause", "cleanup-expired-tokens").returncode == 0
    assert "paused" in run("app.jobs", "schedule", "list").stdout


def test_errors_on_the_command_line_are_one_line(clean_database: None, redis: None) -> None:
    result = run("app.jobs", "show", "unknown")
    assert (result.returncode, result.stderr) == (1, "there is no job unknown\n")
    result = run("app.jobs", "retry", queue_for_later())
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
