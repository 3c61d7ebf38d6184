"""The Celery application: its tasks, its schedule, its settings and its command lines."""

import os
import subprocess
import sys

from typer.testing import CliRunner

from app.core.celery import TASKS, celery_app, find_task_modules
from app.core.config.settings import settings
from app.jobs.__main__ import app as command_line
from tests.jobs import queue_for_later


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_scheduled_task_is_registered() -> None:
    celery_app.loader.import_default_modules()
    tasks = {entry["task"] for entry in celery_app.conf.beat_schedule.values()}
    assert tasks <= celery_app.tasks.keys()


def test_every_module_in_tasks_is_found() -> None:
    names = {f"app.tasks.{path.stem}" for path in TASKS.glob("[!_]*.py")}
    assert names == set(find_task_modules())


def test_settings_reach_celery() -> None:
    assert celery_app.conf.broker_url == settings.celery.CELERY_BROKER_URL
    assert celery_app.conf.result_backend == settings.celery.CELERY_RESULT_BACKEND
    assert celery_app.conf.worker_concurrency == settings.celery.CELERY_WORKER_CONCURRENCY


def test_bad_setting_is_named() -> None:
    result = run("app.jobs", "list", CELERY_BROKER_URL="amqp://localhost")
    assert result.returncode == 1
    assert "CELERY_BROKER_URL" in result.stderr
    assert "Traceback" not in result.stderr


def test_jobs_on_the_command_line(clean_database: None, redis: None) -> None:
    def output(*arguments: str) -> str:
        return CliRunner().invoke(command_line, arguments, catch_exceptions=False).output

    job_id = queue_for_later()
    assert job_id in output("list", "--status=PENDING")
    assert '"message": "hello"' in output("show", job_id)
    assert output("cancel", "--task=other", "--yes") == ""
    assert output("cancel", "--yes") == f"{job_id} REVOKED\n"
    assert output("retry", job_id) == f"{job_id} PENDING\n"
    output("schedule", "pause", "cleanup-expired-tokens")
    assert "paused" in output("schedule", "list")


def test_error_on_the_command_line_is_one_line(clean_database: None) -> None:
    result = run("app.jobs", "show", "unknown")
    assert (result.returncode, result.stderr) == (1, "there is no job unknown\n")
