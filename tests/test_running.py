"""A generated project at work: API, worker, beat and Flower as real processes, and its one command.

Once per database. The database servers are those that the project's own tests start.
"""

import os
import re
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import DATABASES, Bake, install, project_environment
from tests.processes import Api, free_port, process, redis_server, stop, wait_until

# The documentation's own kind of snippet, as a file that is dropped into app/tasks/.
DROPPED_IN = """
from celery import shared_task

from app.core.celery import celery_app, with_db_init


@celery_app.task
def plain(user_id: int, message: str):
    return {"status": "sent", "user_id": user_id}


@celery_app.task
@with_db_init
def with_database(email: str):
    from sqlalchemy import select

    from app.core.database import session_scope
    from app.models import User

    with session_scope() as session:
        return session.scalar(select(User.id).where(User.email == email))


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

# In the API's place: enqueues without ever having imported the neighbours of the module.
ENQUEUE = """
import json, sys
from app.tasks.dropped_in import {name} as task
result = task.delay(*json.loads(sys.argv[1]))
print(json.dumps(result.get(timeout=60)))
"""


@dataclass
class Stack:
    """A project whose processes run."""

    project: Path
    variables: dict[str, str]
    api: Api
    flower: str
    logs: Path

    def python(self, code: str, *arguments: str) -> str:
        """Run Python in the project and return what it prints."""
        command = [self.project / ".venv/bin/python", "-c", code, *arguments]
        return subprocess.run(
            command,
            cwd=self.project,
            env=project_environment(**self.variables),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    def log(self, name: str) -> str:
        return (self.logs / name).read_text(errors="replace")


DATABASE_SERVER = """
import sys, time
from tests.servers.database_{database} import DATABASE_URL, database_server
with database_server():
    print(DATABASE_URL, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", params=DATABASES)
def stack(
    request: pytest.FixtureRequest, bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    project = bake(database=request.param, python_version="3.13")
    (project / "app/tasks/dropped_in.py").write_text(DROPPED_IN)
    install(project, "3.13")
    logs = tmp_path_factory.mktemp("logs")
    bin_ = project / ".venv/bin"
    with ExitStack() as running:
        redis = running.enter_context(redis_server(logs))
        # The server ends when its standard input does.
        server = running.enter_context(
            subprocess.Popen(
                [bin_ / "python", "-c", DATABASE_SERVER.format(database=request.param)],
                cwd=project,
                env=project_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert server.stdout is not None
        variables = {
            "DATABASE_URL": server.stdout.readline().strip(),
            "REDIS_URL": f"{redis}/0",
            "CELERY_BROKER_URL": f"{redis}/1",
            "CELERY_RESULT_BACKEND": f"{redis}/2",
            "CELERY_WORKER_CONCURRENCY": "2",
        }
        assert variables["DATABASE_URL"], "the database server did not start"
        subprocess.run(
            [bin_ / "alembic", "upgrade", "head"],
            cwd=project,
            env=project_environment(**variables),
            check=True,
        )
        port, flower = free_port(), free_port()

        def start(name: str, *command: str, **more: str) -> None:
            running.enter_context(
                process(bin_ / command[0], *command[1:], cwd=project, log=logs / name,
                        **variables, **more)
            )  # fmt: skip

        celery = ("celery", "-A", "app.core.celery.celery_app")
        start("api", "uvicorn", "app.main:app", "--port", str(port))
        start("worker", *celery, "worker", "--loglevel=info", "-E")
        start("flower", *celery, "flower", f"--port={flower}", FLOWER_UNAUTHENTICATED_API="true")
        api = Api(f"http://127.0.0.1:{port}")
        stack = Stack(project, variables, api, f"http://127.0.0.1:{flower}", logs)
        wait_until(api.is_up, message="no answer from the API")
        wait_until(lambda: " ready." in stack.log("worker"), message="the worker is not ready")
        yield stack


@pytest.mark.xdist_group("running")
class TestStack:
    """All of one database's tests share its processes."""

    def test_conversation(self, stack: Stack) -> None:
        ann, bob = stack.api.log_in("ann@example.com"), stack.api.log_in("bob@example.com")
        status, queued = ann.request("POST", "/notify", user_id=1, message="hello")
        assert (status, queued["status"]) == (202, "queued")
        task_id = queued["task_id"]
        assert ann.result(task_id) == {
            "task_id": task_id,
            "status": "SUCCESS",
            "result": {"status": "sent", "user_id": 1},
        }
        assert bob.get(f"/task/{task_id}")[0] == 404
        assert ann.get("/task/00000000-0000-4000-8000-000000000000")[0] == 404
        assert stack.api.get(f"/task/{task_id}")[0] == 401
        status, ready = stack.api.get("/health/ready")
        assert status == 200, ready

    @pytest.mark.parametrize(
        ("name", "arguments", "result"),
        [
            ("plain", '[1, "hello"]', '{"status": "sent", "user_id": 1}'),
            ("with_database", '["ann@example.com"]', "1"),
            ("unreliable", '[{"failures": 2}]', "2"),
            ("shared", "[]", '"shared"'),
        ],
    )
    def test_dropped_in_file_runs(
        self, stack: Stack, name: str, arguments: str, result: str
    ) -> None:
        stack.api.log_in("ann@example.com")
        assert stack.python(ENQUEUE.format(name=name), arguments).strip() == result

    def test_beat_dispatches_the_whole_schedule(self, stack: Stack) -> None:
        """The schedule of the project, brought forward: every entry runs and succeeds."""
        early = stack.project / "early.py"
        early.write_text(
            textwrap.dedent("""
            from app.core.celery import celery_app

            for entry in celery_app.conf.beat_schedule.values():
                entry["schedule"] = 2.0
            """)
        )
        command = ["celery", "-A", "early.celery_app", "beat", "--loglevel=info"]
        names = stack.python(
            "from app.core.celery import celery_app;"
            "print(*{e['task'] for e in celery_app.conf.beat_schedule.values()})"
        ).split()
        registered = stack.python(
            "from app.core.celery import celery_app;"
            "print(*celery_app.control.inspect(timeout=10, limit=1).registered().popitem()[1])"
        )
        assert set(names) <= set(registered.split())
        with process(
            stack.project / ".venv/bin" / command[0],
            *command[1:],
            cwd=stack.project,
            log=stack.logs / "beat",
            **stack.variables,
        ):
            for name in names:
                pattern = re.compile(rf"Task {re.escape(name)}\[\S+\] succeeded")
                wait_until(
                    lambda p=pattern: p.search(stack.log("worker")), message=f"{name} does not run"
                )

    def test_flower_shows_the_worker_and_the_task(self, stack: Stack, tmp_path: Path) -> None:
        ann = stack.api.log_in("ann@example.com")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            from tests.conftest import unavailable

            unavailable("no Chromium: apt install chromium")
        _, queued = ann.request("POST", "/notify", user_id=1, message="for Flower")
        ann.result(queued["task_id"])

        def page(path: str) -> str:
            command = [str(chromium), "--headless", "--no-sandbox", "--disable-gpu",
                       "--no-first-run", "--disable-background-networking", "--disable-sync",
                       "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
                       "--virtual-time-budget=5000", "--dump-dom", f"{stack.flower}{path}"]  # fmt: skip
            return subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=True
            ).stdout

        wait_until(lambda: "celery@" in page("/workers"), message="Flower does not show the worker")
        wait_until(
            lambda: queued["task_id"] in page("/tasks"), message="Flower does not show the task"
        )
        assert "send_notification" in page(f"/task/{queued['task_id']}")

    def test_every_celery_variable_changes_the_worker(self, stack: Stack) -> None:
        """Asked of a running worker, with values that are not the defaults."""
        changes = {
            "CELERY_TIMEZONE": "Europe/Berlin",
            "CELERY_ENABLE_UTC": "false",
            "CELERY_WORKER_CONCURRENCY": "3",
            "CELERY_BROKER_URL": stack.variables["CELERY_BROKER_URL"][:-1] + "5",
            "CELERY_RESULT_BACKEND": stack.variables["CELERY_RESULT_BACKEND"][:-1] + "6",
        }
        variables = stack.variables | changes
        log = stack.logs / "other-worker"
        with process(
            stack.project / ".venv/bin/celery", "-A", "app.core.celery.celery_app", "worker",
            "--loglevel=info", cwd=stack.project, log=log, **variables,
        ):  # fmt: skip
            wait_until(lambda: " ready." in log.read_text(), message="the worker is not ready")
            other = Stack(stack.project, variables, stack.api, "", stack.logs)
            conf = other.python(
                "from app.core.celery import celery_app; import json;"
                "conf = celery_app.control.inspect(timeout=10, limit=1).conf().popitem()[1];"
                "print(json.dumps(conf))"
            )
        import json

        conf = json.loads(conf)
        assert conf["timezone"] == "Europe/Berlin"
        assert conf["enable_utc"] is False
        assert conf["worker_concurrency"] == 3
        assert (conf["task_serializer"], conf["result_serializer"]) == ("json", "json")
        assert conf["broker_url"].endswith("/5")
        assert conf["result_backend"].endswith("/6")


@pytest.mark.xdist_group("running")
def test_development_in_one_command(bake: Bake, tmp_path: Path) -> None:
    """Every process is named and up, code is reloaded, Ctrl-C stops it all."""
    if shutil.which("redis-server") is None:
        from tests.conftest import unavailable

        unavailable("no redis-server: apt install redis-server")
    project = bake(python_version="3.13")
    install(project, "3.13")
    redis, port, flower = free_port(), free_port(), free_port()
    variables = {"PORT": str(port), "FLOWER_PORT": str(flower)} | {
        name: f"redis://127.0.0.1:{redis}/{number}"
        for number, name in enumerate(["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"])
    }
    bin_ = project / ".venv/bin"
    env = project_environment(PATH=f"{bin_}:{os.environ['PATH']}", **variables)
    subprocess.run([bin_ / "alembic", "upgrade", "head"], cwd=project, env=env, check=True)
    log = tmp_path / "dev.log"
    with process(bin_ / "python", "-m", "dev", cwd=project, log=log, **env) as dev:
        api = Api(f"http://127.0.0.1:{port}")
        wait_until(api.is_up, message="no answer from the API")
        text = log.read_text
        wait_until(lambda: " ready." in text(), message="the worker is not ready")
        wait_until(lambda: "beat: Starting" in text(), message="beat does not start")
        wait_until(lambda: Api(f"http://127.0.0.1:{flower}") and "Visit me" in text())
        for name in ("redis", "api", "worker", "beat", "flower"):
            assert re.search(rf"^\S+ {name} +\| ", text(), re.MULTILINE), name
        (project / "app/tasks/dropped_in.py").write_text(DROPPED_IN)
        wait_until(
            lambda: "app.tasks.dropped_in.plain" in text(), message="the worker does not reload"
        )
        wait_until(lambda: "Reloading" in text(), message="the API does not reload")
        children = subprocess.run(
            ["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True
        ).stdout
        assert str(project) in children
        assert stop(dev, signal.SIGINT) == 0, text()[-2000:]
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(project) not in left
    assert f":{redis}" not in left


@pytest.mark.xdist_group("running")
def test_development_without_redis_says_how_to_get_one(bake: Bake, tmp_path: Path) -> None:
    project = bake(python_version="3.13", use_celery=False)
    install(project, "3.13")
    bin_ = project / ".venv/bin"
    result = subprocess.run(
        [bin_ / "python", "-m", "dev.redis"],
        cwd=project,
        env=project_environment(PATH=str(bin_), REDIS_URL=f"redis://127.0.0.1:{free_port()}/0"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("No Redis answers at 127.0.0.1:")
    assert result.stderr.count("\n") == 1
