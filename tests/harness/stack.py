"""A project's Compose stack, run by the tests under a name of its own."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from dotenv import dotenv_values

from tests.harness.bake import code_blocks, find_program, skip_or_fail
from tests.harness.processes import log_in, wait_until

# Workers find every module in app/tasks/ by themselves.
PROBE = '''\
"""A task and an entry of the schedule for the template's tests."""

import time

from app.core.celery import celery_app

celery_app.conf.beat_schedule["probe"] = {"task": "app.tasks.probe.tick", "schedule": 1.0}


@celery_app.task
def tick():
    pass


@celery_app.task(bind=True)
def work(self, seconds):
    time.sleep(seconds)
    return self.request.hostname
'''


def require_docker() -> None:
    """Skip the test when there is no Docker engine, or no Compose plugin."""
    docker = find_program("docker", install="see https://docs.docker.com/engine/install/")
    for command in ("compose version", "info"):
        result = subprocess.run([docker, *command.split()], capture_output=True, text=True)
        if result.returncode:
            reason = result.stderr.strip().splitlines()[-1]
            skip_or_fail(f"docker {command} fails: {reason}")


class ComposeStack:
    """A copy of a project and the containers that run it.

    ``environment`` is what Compose gets besides ``.env``.
    """

    def __init__(self, project: Path, folder: Path, **environment: str) -> None:
        self.name = f"forge-{uuid4().hex[:8]}"
        self.folder = folder / self.name
        self.files = ["docker-compose.yml"]
        shutil.copytree(project, self.folder)
        # Port 0: any that is free.
        ports = dict.fromkeys(("APP_PORT", "DATABASE_PORT", "FLOWER_PORT", "PROMETHEUS_PORT"), "0")
        ports |= dict.fromkeys(("HTTP_PORT", "HTTPS_PORT"), "127.0.0.1:0")
        self.environment = {"COMPOSE_PROJECT_NAME": self.name} | ports | environment
        tasks = self.folder / "app" / "tasks"
        if tasks.is_dir():
            (tasks / "probe.py").write_text(PROBE)
        self.services = sorted(self.config()["services"])

    @property
    def variables(self) -> dict[str, str]:
        """The variables of ``.env``."""
        return {name: str(value) for name, value in dotenv_values(self.folder / ".env").items()}

    def set(self, **variables: str) -> None:
        """Add variables to ``.env``."""
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())

    @property
    def secrets(self) -> dict[str, str]:
        """The variables that generation gave a random value."""
        example = dotenv_values(self.folder / ".env.example")
        return {name: value for name, value in self.variables.items() if example.get(name) == ""}

    def run(
        self, *command: str, check: bool = True, input: str | None = None, **environment: str
    ) -> str:
        """Run a program in the project and return its output."""
        files = {"COMPOSE_FILE": os.pathsep.join(self.files)}
        result = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **self.environment, **files, **environment},
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

    def follow(self, page: str, word: str) -> str:
        """Run the command block of a page that has a word; return its output."""
        blocks = code_blocks((self.folder / page).read_text())
        [block] = [block for block in blocks if word in block]
        block = block.replace("app.backup restore", "app.backup restore --yes")
        return self.run("bash", "-euc", block.replace("logs -f", "logs"))

    def config(self) -> dict[str, Any]:
        """Return the configuration as Compose understands it."""
        config: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))
        return config

    def up(self, *arguments: str, **environment: str) -> None:
        """Start what is not running, and wait until every service is healthy."""
        try:
            wait = ("--wait", "--wait-timeout", "180")
            self.compose("up", "-d", *wait, *arguments, **environment)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail=40')}") from None

    @contextmanager
    def extended(self, file: str, **environment: str) -> Iterator[None]:
        """Use another Compose file, and more variables, for a while; then the stack is as before."""
        files, before = self.files, self.environment
        self.files, self.environment = [*files, file], before | environment
        try:
            yield
        finally:
            self.files, self.environment = files, before
            self.up("--remove-orphans")

    def remove(self) -> None:
        """Remove the containers, the volumes and the image."""
        options = ("--volumes", "--remove-orphans", "--rmi=local", "--timeout=1")
        self.compose("--profile=*", "down", *options, check=False)
        self.run("docker", "rmi", "--force", f"{self.name}-app", check=False)

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """Return the state of each container, also of those that have exited."""
        lines = self.compose("ps", "--all", "--format=json", *services).splitlines()
        return [json.loads(line) for line in lines]

    def running(self, *services: str) -> list[dict[str, Any]]:
        """Return what ``docker inspect`` says about each running container."""
        ids = self.compose("ps", "--quiet", *services).split()
        found: list[dict[str, Any]] = json.loads(self.run("docker", "inspect", *ids))
        return found

    def health(self, service: str) -> str:
        """Return the health of a service's only container."""
        [container] = self.containers(service)
        return str(container["Health"])

    def wait_for_health(self, health: str, *services: str, seconds: float = 90) -> None:
        """Wait until each service has one container with this health."""
        for service in services:
            wait_until(
                lambda service=service: self.health(service) == health,
                seconds,
                f"{service} is not {health}",
                every=0.5,
            )

    def execute(self, service: str, *command: str, **options: Any) -> str:
        """Run a program in a running container."""
        return self.compose("exec", "-T", service, *command, **options)

    def python(self, code: str) -> Any:
        """Run code in the API's container and return what it assigns to ``answer``, as JSON."""
        output = self.execute(
            "app", "python", "-", input=f"import json\n{code}\nprint(json.dumps(answer))"
        )
        return json.loads(output.splitlines()[-1])

    def redis(self, arguments: str) -> str:
        """Run redis-cli with arguments for a shell."""
        return self.execute("redis", "sh", "-c", f"redis-cli {arguments} 2>&1", check=False)

    def backup(self, *arguments: str) -> str:
        """Run the backup command in the API's container."""
        return self.execute("app", "python", "-m", "app.backup", *arguments)

    def enqueue_work(self, user: httpx.Client, seconds: float, count: int = 1) -> list[str]:
        """Queue jobs of a user that take so many seconds each, and return their ids."""
        owner = user.get("/users/me").json()["id"]
        ids: list[str] = self.python(
            "from app.core.database import session_scope\n"
            "from app.jobs import enqueue\n"
            "from app.tasks.probe import work\n"
            "with session_scope() as session:\n"
            f"    jobs = [enqueue(session, work, owner_id={owner}, seconds={seconds})\n"
            f"            for _ in range({count})]\n"
            "    session.flush()\n"
            "    answer = [job.id for job in jobs]"
        )
        return ids

    def address(self, service: str, port: int) -> str:
        """Return where a service's port is published."""
        return self.compose("port", service, str(port)).strip()

    def api(self) -> httpx.Client:
        """Return a client for the API."""
        return httpx.Client(base_url=f"http://{self.address('app', 8000)}", timeout=10)

    def log_in(self, email: str = "first@example.com") -> httpx.Client:
        """Return a client that is logged in as a user, who is registered if need be."""
        return log_in(self.api(), email)
