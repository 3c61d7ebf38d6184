"""A generated project at work: API, worker, beat and Flower as real processes, on each database."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.harness import (
    DATABASES,
    Stack,
    code_blocks,
    find_program,
    free_port,
    log_in,
    wait_for_task,
    wait_until,
)

# One process runs them all: they share what they start.
pytestmark = pytest.mark.xdist_group("processes")

# A file as in Celery's documentation, dropped into app/tasks/.
DROPPED_IN = """
from celery import shared_task
from sqlalchemy import select

from app.core.celery import celery_app, with_db_init
from app.core.database import session_scope
from app.models import User


@celery_app.task
def plain(user_id: int, message: str):
    return {"status": "sent", "user_id": user_id}


@celery_app.task
@with_db_init
def with_database(email: str):
    with session_scope() as session:
        return session.scalar(select(User.email).where(User.email == email))


@celery_app.task(bind=True, max_retries=3, default_retry_delay=300)
def unreliable(self, data: dict):
    try:
        if self.request.retries < data["failures"]:
            raise ConnectionError("not yet")
        return self.request.retries
    except Exception as e:
        raise self.retry(exc=e, countdown=0.1)


@shared_task
def shared():
    return "shared"
"""

# Queues like the API does: without ever having imported the other task modules.
QUEUE = """
import json, sys
from app.tasks.dropped_in import {name} as task
result = task.delay(*json.loads(sys.argv[1]))
print(json.dumps(result.get(timeout=60)))
"""


@pytest.fixture(scope="module", params=DATABASES)
def stack(
    request: pytest.FixtureRequest, bake: Bake, installed: Bake, tmp_path_factory
) -> Iterator[Stack]:
    """A project whose API and worker run."""
    project = installed(database=request.param)
    (project / "app/tasks/dropped_in.py").write_text(DROPPED_IN)
    with Stack(project, tmp_path_factory.mktemp("stack")) as stack:
        stack.api = stack.start_api()
        stack.start_worker("worker", "-E")
        yield stack
    (project / "app/tasks/dropped_in.py").unlink()


def test_a_user_queues_a_task_and_reads_its_result(stack: Stack) -> None:
    ann, bob = log_in(stack.api, "ann@example.com"), log_in(stack.api, "bob@example.com")
    response = ann.post("/notify", params={"user_id": 1, "message": "hello"})
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    task_id = response.json()["task_id"]
    state = wait_for_task(ann, task_id)
    result = {"status": "sent", "user_id": 1}
    assert state | {"task_id": task_id, "status": "SUCCESS", "result": result} == state
    assert bob.get(f"/task/{task_id}").status_code == 404
    assert ann.get("/task/00000000-0000-4000-8000-000000000000").status_code == 404
    assert stack.api.get(f"/task/{task_id}").status_code == 401
    ready = stack.api.get("/health/ready")
    assert ready.status_code == 200, ready.text


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("plain", '[1, "hello"]', {"status": "sent", "user_id": 1}),
        ("with_database", '["ann@example.com"]', "ann@example.com"),
        ("unreliable", '[{"failures": 2}]', 2),
        ("shared", "[]", "shared"),
    ],
)
def test_a_file_in_app_tasks_is_all_it_takes(
    stack: Stack, name: str, arguments: str, result: object
) -> None:
    log_in(stack.api, "ann@example.com")
    assert json.loads(stack.python(QUEUE.format(name=name), arguments)) == result


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True, scope="module")
def test_each_process_is_started_by_the_readme(stack: Stack) -> None:
    blocks = code_blocks((stack.project / "README.md").read_text())
    [block] = [block for block in blocks if "uvicorn" in block]
    for name, ready in {
        "alembic upgrade": "Will assume",
        "uvicorn": "Application startup complete",
        "worker": " ready.",
        "beat": "beat: Starting",
        "flower": "Visit me at",
    }.items():
        [command] = [line for line in block.splitlines() if f"{name} " in line]
        command = command.replace("5555", str(free_port()))
        stack.start(f"own {name}", "bash", "-c", command, UVICORN_PORT=str(free_port()))
        stack.wait_for_log(f"own {name}", ready)
        stack.kill(f"own {name}")
    assert len(block.splitlines()) == 5


def test_beat_runs_the_whole_schedule(stack: Stack) -> None:
    """The schedule of the project, brought forward: every entry runs and succeeds."""
    early = stack.project / "early.py"
    early.write_text(
        "from app.core.celery import celery_app\n"
        "for entry in celery_app.conf.beat_schedule.values():\n"
        "    entry['schedule'] = 2.0\n"
    )
    names = stack.python(
        "from app.core.celery import celery_app;"
        "print(*{entry['task'] for entry in celery_app.conf.beat_schedule.values()})"
    ).split()
    celery = stack.project / ".venv/bin/celery"
    try:
        stack.start("beat", celery, "-A", "early.celery_app", "beat", "--loglevel=info")
        for name in names:
            succeeded = re.compile(rf"Task {re.escape(name)}\[\S+\] succeeded")
            wait_until(
                lambda pattern=succeeded: pattern.search(stack.log("worker")),
                message=f"{name} has not succeeded",
            )
    finally:
        stack.stop("beat")
        early.unlink()


def test_flower_shows_the_worker_and_the_task(stack: Stack, tmp_path: Path) -> None:
    chromium = find_program("chromium", "google-chrome", install="apt install chromium")
    ann = log_in(stack.api, "ann@example.com")
    flower = stack.start_flower(FLOWER_UNAUTHENTICATED_API="true")

    def page(path: str) -> str:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-sync"]
        options += ["--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [chromium, *options, "--virtual-time-budget=5000", "--dump-dom", flower + path]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    wait_until(lambda: "worker@" in page("/workers"), message="Flower does not show the worker")
    # Flower receives events from here on.
    response = ann.post("/notify", params={"user_id": 1, "message": "for Flower"})
    task_id = response.json()["task_id"]
    wait_for_task(ann, task_id)
    wait_until(lambda: task_id in page("/tasks"), message="Flower does not show the task")
    assert "send_notification" in page(f"/task/{task_id}")
    stack.stop("flower")


def test_every_celery_variable_changes_the_worker(stack: Stack) -> None:
    """Asked of a running worker, with values that are not the defaults."""
    changes = {
        "CELERY_TIMEZONE": "Europe/Berlin",
        "CELERY_ENABLE_UTC": "false",
        "CELERY_WORKER_CONCURRENCY": "3",
        "CELERY_BROKER_URL": stack.environment["CELERY_BROKER_URL"][:-1] + "5",
        "CELERY_RESULT_BACKEND": stack.environment["CELERY_RESULT_BACKEND"][:-1] + "6",
    }
    stack.start_worker("other", **changes)
    output = stack.run(
        *("celery", "-A", "app.core.celery.celery_app", "inspect", "--json", "conf"), **changes
    )
    [conf] = json.loads(output).values()
    expected = {
        "timezone": "Europe/Berlin",
        "enable_utc": False,
        "worker_concurrency": 3,
        "task_serializer": "json",
        "result_serializer": "json",
    }
    assert conf | expected == conf
    assert conf["broker_url"].endswith("/5")  # the rest is masked
    assert conf["result_backend"].endswith("/6")
    stack.stop("other")
