"""A baked project's Compose stack, run by the tests under a name of its own."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from dotenv import dotenv_values

from tests import harness

# Tasks for the tests. A module in app/tasks/ is all it takes: the stack finds it by itself.
PROBE = '''\
"""Tasks that the template's tests use."""

import time

from celery import signals

from app.core.celery import celery_app

celery_app.conf.beat_schedule["probe"] = {"task": "app.tasks.probe.tick", "schedule": 1.0}


def redis():
    return celery_app.connection_for_write().default_channel.client


@celery_app.task
def tick():
    pass


@signals.before_task_publish.connect(sender="app.tasks.probe.tick")
def note(**_):
    redis().rpush("probe:ticks", time.time())


@celery_app.task(bind=True)
def work(self, seconds):
    redis().rpush("probe:started", self.request.id)
    time.sleep(seconds)
    redis().rpush("probe:done", self.request.id)
    return self.request.hostname
'''


def require_docker() -> None:
    """Skip the test when there is no Docker engine, or no Compose plugin."""
    docker = harness.find_program("docker", install="see https://docs.docker.com/engine/install/")
    for command in ("compose version", "info"):
        result = subprocess.run([docker, *command.split()], capture_output=True, text=True)
        if result.returncode:
            reason = result.stderr.strip().splitlines()[-1]
            harness.skip_or_fail(f"docker {command} fails: {reason}")


class ComposeStack:
    """A copy of a project and the containers that run it."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.name = f"forge-{uuid4().hex[:8]}"
        self.folder = folder / self.name
        shutil.copytree(project, self.folder)
        tasks = self.folder / "app" / "tasks"
        if tasks.is_dir():
            (tasks / "probe.py").write_text(PROBE)
        self.services = sorted(self.config()["services"])

    @property
    def secrets(self) -> dict[str, str | None]:
        """The variables that generation gave a random value."""
        values, example = (dotenv_values(self.folder / name) for name in (".env", ".env.example"))
        return {name: values[name] for name, value in example.items() if not value}

    def run(self, *command: str, check: bool = True, input: str | None = None) -> str:
        """Run a program in the project and return its output."""
        ours = {"COMPOSE_PROJECT_NAME": self.name, "IMAGE_TAG": self.name}
        # Port 0: any that is free. A killed worker is missed sooner than by default.
        ours |= {"APP_PORT": "0", "FLOWER_PORT": "0", "CELERY_LOST_WORKER_TIMEOUT": "15"}
        result = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **ours},
            input=input,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check and result.returncode:
            raise AssertionError(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def compose(self, *arguments: str, **options: Any) -> str:
        """Run docker compose."""
        return self.run("docker", "compose", *arguments, **options)

    def config(self) -> dict[str, Any]:
        """Return the configuration as Compose understands it."""
        config: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))
        return config

    def up(self, *arguments: str) -> None:
        """Start, or go on, until every service is healthy."""
        try:
            self.compose("up", "-d", "--wait", "--wait-timeout", "180", *arguments)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail=40')}") from None

    def end(self) -> None:
        """Remove the containers, the volumes and the image."""
        self.compose("down", "--volumes", "--rmi=local", "--timeout=1", check=False)
        images = self.run("docker", "images", "-q", f"*:{self.name}").split()
        if images:
            self.run("docker", "rmi", "--force", *set(images), check=False)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return the state of each container, ended ones too."""
        lines = self.compose("ps", "--all", "--format=json", *services).splitlines()
        return [json.loads(line) for line in lines]

    def health(self, service: str) -> str:
        """Return the health of a service's only container."""
        [container] = self.containers(service)
        return str(container["Health"])

    def execute(self, service: str, *command: str, **options: Any) -> str:
        """Run a program in a running container."""
        return self.compose("exec", "-T", service, *command, **options)

    def python(self, code: str) -> Any:
        """Run code in the API's container and return what it assigns to ``answer``, as JSON."""
        output = self.execute(
            "app", "python", "-", input=f"import json\n{code}\nprint(json.dumps(answer))"
        )
        return json.loads(output.splitlines()[-1])

    def redis(self, *command: str) -> list[str]:
        """Run a command on the broker's database."""
        return self.execute("redis", "redis-cli", "-n", "1", *command).split()

    def queue_work(self, count: int, seconds: float) -> list[str]:
        """Queue ``count`` tasks that take ``seconds`` and return their ids."""
        ids: list[str] = self.python(
            "from app.tasks.probe import work\n"
            f"answer = [work.delay({seconds}).id for _ in range({count})]"
        )
        return ids

    def results(self, ids: list[str]) -> list[tuple[str, Any]]:
        """Return the state and result of each task."""
        found: list[tuple[str, Any]] = self.python(
            "from app.core.celery import celery_app\n"
            f"metas = [celery_app.backend.get_task_meta(i) for i in {ids!r}]\n"
            "answer = [(meta['status'], str(meta['result'])) for meta in metas]"
        )
        return found

    def address(self, service: str, port: int) -> str:
        """Return where a service's port is published."""
        return self.compose("port", service, str(port)).strip()

    def api(self) -> httpx.Client:
        """Return a client for the API."""
        return httpx.Client(base_url=f"http://{self.address('app', 8000)}", timeout=10)

    def log_in(self, email: str) -> httpx.Client:
        """Return a client that is logged in as a user, who is registered if need be."""
        return harness.log_in(self.api(), email)
