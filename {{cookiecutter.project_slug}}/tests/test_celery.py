"""The Celery application: its tasks, its schedule and its settings."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.core.celery import APP_FOLDER, celery_app, check_configuration
from app.core.config.settings import settings
from tests.servers import wait_until

CELERY = [sys.executable, "-m", "celery", "-A", "app.core.celery.celery_app"]


def test_every_scheduled_task_is_registered(worker: Path) -> None:
    answers: list[list[str]] = []

    def ask() -> bool:
        # A worker that has just started may miss the first command.
        answers[:] = (celery_app.control.inspect(timeout=5, limit=1).registered() or {}).values()
        return bool(answers)

    wait_until(ask)
    (registered,) = answers
    scheduled = {entry["task"] for entry in celery_app.conf.beat_schedule.values()}
    assert scheduled <= {name.split(" ")[0] for name in registered}


def test_every_module_in_tasks_is_found() -> None:
    names = {path.stem for path in (APP_FOLDER / "tasks").glob("*.py")} - {"__init__"}
    assert {f"app.tasks.{name}" for name in names} <= set(celery_app.conf.include)


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
    assert celery_app.conf[option] == getattr(settings.celery, variable)


def test_only_json_is_accepted() -> None:
    assert celery_app.conf.accept_content == ["json"]


def test_commands_do_not_show_passwords() -> None:
    command = [*CELERY, "report"]
    environment = os.environ | {"CELERY_BROKER_URL": "redis://:hunter2@localhost:6379/1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "broker_url" in result.stdout
    assert "hunter2" not in result.stdout


async def asynchronous() -> None:
    """A task that is a coroutine function."""


@pytest.mark.parametrize(
    ("task", "schedule", "message"),
    [
        ({"soft_time_limit": 9, "time_limit": 8}, {}, "soft_time_limit (9) must be below"),
        ({"run": asynchronous}, {}, "cannot run async functions"),
        ({}, {"nightly": {"task": "missing"}}, "nightly names missing, which is not a task"),
        ({}, {"nightly": {"task": "mine", "args": (1,)}}, "the arguments of nightly"),
        ({}, {"nightly": {"task": "mine", "options": {"queue": "slow"}}}, "nightly has options"),
    ],
)
def test_mistake_in_the_configuration_is_named(
    task: dict[str, object], schedule: dict[str, object], message: str
) -> None:
    defaults = {"soft_time_limit": None, "time_limit": None, "run": lambda: None}
    app = SimpleNamespace(
        tasks={"mine": SimpleNamespace(**(defaults | task))},
        conf=SimpleNamespace(beat_schedule=schedule, task_soft_time_limit=300, task_time_limit=360),
    )
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        check_configuration(app)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "variable", "value"),
    [
        ("worker", "CELERY_TASK_TIME_LIMIT", "10"),
        ("worker", "CELERY_BROKER_URL", "amqp://localhost"),
        ("beat", "CELERY_TIMEZONE", "Atlantis"),
    ],
)
def test_bad_setting_is_named(role: str, variable: str, value: str) -> None:
    environment = os.environ | {variable: value}
    result = subprocess.run(
        [*CELERY, role], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode != 0
    assert variable in result.stderr
    assert "Traceback" not in result.stderr
