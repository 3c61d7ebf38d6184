"""A generated project's processes, started for real on free ports and ended without a trace."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
from celery import Celery
from redis import Redis

from tests.conftest import project_environment, run, uv
from tests.processes import free_port, wait_until

TESTS = Path(__file__).parent


def bake(folder, database="sqlite", **answers):
    """Generate a project with the fault tests' tasks and its own environment; return its folder."""
    answers = {"project_slug": f"faults-{database}", "database": database} | answers
    command = [sys.executable, "-m", "cookiecutter", str(TESTS.parent), "--no-input"]
    command += ["-o", str(folder), *(f"{name}={value}" for name, value in answers.items())]
    # Cookiecutter leaves files in both.
    environment = os.environ | {"HOME": str(folder), "TMPDIR": str(folder)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    project = Path(folder) / answers["project_slug"]
    shutil.copy(TESTS / "faults.py", project / "app" / "tasks")
    run(uv(), "sync", "--quiet", "--no-dev", cwd=project, env=project_environment())
    return project


class Stack:
    """Redis, and as many workers, APIs and beats as a test asks for."""

    def __init__(self, project, folder, database_url=None, redis_options=(), **environment):
        self.project, self.folder = Path(project), Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.runs_file = self.folder / "runs"
        self.python = str(self.project / ".venv" / "bin" / "python")
        self.redis_port = free_port()
        self.redis_options = redis_options
        self.postgres = None
        self.processes = {}
        url = f"redis://127.0.0.1:{self.redis_port}"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "PYENV_VERSION")
        } | {
            "DATABASE_URL": database_url or f"sqlite:///{self.folder / 'app.db'}",
            "SECRET_KEY": secrets.token_hex(32),
            "REDIS_URL": f"{url}/0",
            "CELERY_BROKER_URL": f"{url}/1",
            "CELERY_RESULT_BACKEND": f"{url}/2",
            "CELERY_WORKER_CONCURRENCY": "2",
            "RUNS_FILE": str(self.runs_file),
            "TMPDIR": str(self.folder),  # a killed process cannot remove what it has made
            "PYTHONUNBUFFERED": "1",
            "REMAP_SIGTERM": "SIGQUIT",  # as the image has it
        }
        self.environment |= environment
        self.redis = Redis(port=self.redis_port, socket_timeout=5)
        self.broker = Redis(port=self.redis_port, db=1, socket_timeout=5)
        self.client = Celery("client", broker=f"{url}/1", backend=f"{url}/2", set_as_current=False)

    def __enter__(self):
        self.start_redis()
        return self

    def __exit__(self, *_):
        if self.postgres and "postgres" in self.processes:
            self.postgres.signal(signal.SIGCONT)
            self.postgres.stop()
        for name in list(self.processes):
            self.kill(name, missing_ok=True)
        if self.postgres:
            self.postgres.close()

    # Processes

    def start(self, name, *arguments, **environment):
        """Start a process in a group of its own, with its output in a file."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                arguments,
                cwd=self.project,
                env=self.environment | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.processes[name]

    def log(self, name):
        """Return what a process has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def signal(self, name, number, group=False):
        """Send a signal to a process, or to all that it has started too."""
        pid = self.processes[name].pid
        (os.killpg if group else os.kill)(pid, number)

    def kill(self, name, missing_ok=False):
        """End a process and its children as a power cut does."""
        process = self.processes.pop(name)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            if not missing_ok:
                raise
        process.wait()

    def stop(self, name, seconds=60):
        """End a process as a supervisor does; return its exit code."""
        self.signal(name, signal.SIGTERM)
        code = self.processes[name].wait(seconds)
        del self.processes[name]
        return code

    def start_redis(self):
        """Start Redis with an append-only file, and wait until it answers."""
        server = shutil.which("redis-server")
        options = ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        folder = self.folder / "redis"
        folder.mkdir(exist_ok=True)
        self.start(
            "redis",
            *(server, "--port", str(self.redis_port), "--bind", "127.0.0.1"),
            *("--dir", str(folder), *options, *self.redis_options),
        )
        wait_until(self.redis_answers, message="Redis did not start")

    def redis_answers(self):
        """Return whether Redis answers."""
        with suppress(Exception):
            return self.redis.ping()

    def migrate(self):
        """Bring the database to the newest revision."""
        self.start("alembic", self.python, "-m", "alembic", "upgrade", "head")
        code = self.processes.pop("alembic").wait(60)
        assert code == 0, self.log("alembic")

    def start_worker(self, name="worker", *arguments, wait=True, **environment):
        """Start a worker and wait until it takes tasks."""
        celery = (self.python, "-m", "celery", "-A", "app.core.celery.celery_app", "worker")
        self.start(name, *celery, "-n", f"{name}@%h", "--loglevel=info", *arguments, **environment)
        if wait:
            wait_until(
                lambda: " ready" in self.log(name) or self.processes[name].poll() is not None,
                message=f"{name} did not start",
            )
            assert self.processes[name].poll() is None, self.log(name)

    def start_beat(self, name="beat", **environment):
        """Start beat."""
        celery = (self.python, "-m", "celery", "-A", "app.core.celery.celery_app", "beat")
        self.start(name, *celery, "--loglevel=info", **environment)

    def start_api(self, name="api", **environment):
        """Start the API; return a client that is logged in."""
        port = free_port()
        self.start(
            name,
            *(self.python, "-m", "uvicorn", "app.main:app", "--port", str(port)),
            **environment,
        )
        api = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

        def live():
            with suppress(httpx.HTTPError):
                return api.get("/health/live").status_code == 200

        wait_until(live, message="the API did not start")
        account = {"email": f"{secrets.token_hex(4)}@example.com", "password": "correct horse"}
        assert api.post("/auth/register", json=account).status_code == 201
        form = {"username": account["email"], "password": account["password"]}
        token = api.post("/auth/token", data=form).json()["access_token"]
        api.headers["Authorization"] = f"Bearer {token}"
        return api

    # Tasks

    def queue(self, task, *args, **options):
        """Queue a task of ``faults.py``; return its result's handle."""
        return self.client.send_task(f"app.tasks.faults.{task}", args, **options)

    def runs(self, event="start"):
        """Return how often each key was started (or ended)."""
        if not self.runs_file.exists():
            return Counter()
        lines = [line.split() for line in self.runs_file.read_text().splitlines()]
        return Counter(key for key, what, *_ in lines if what == event)

    def started(self, key, times=1, seconds=30):
        """Wait until a task was started so often."""
        wait_until(lambda: self.runs()[key] >= times, seconds, f"{key} was not run {times} times")

    def ended(self, key, times=1, seconds=30):
        """Wait until a task has ended so often."""
        message = f"{key} did not end {times} times"
        wait_until(lambda: self.runs("end")[key] >= times, seconds, message)

    def unacknowledged(self):
        """Return how many messages are taken and not acknowledged."""
        return self.broker.hlen("unacked")


class Postgres:
    """A PostgreSQL server that belongs to a stack."""

    def __init__(self, stack):
        self.stack = stack
        self.port = free_port()
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        path = os.pathsep.join([os.environ["PATH"], *map(str, folders)])
        self.programs = {name: shutil.which(name, path=path) for name in ("initdb", "postgres")}
        self.data = Path(tempfile.mkdtemp(prefix="forge-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(self.data, self.user)
        subprocess.run(
            [self.programs["initdb"], "-D", self.data, "-U", "app", "--auth=trust", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self.user,
            cwd="/",
        )
        url = f"postgresql+psycopg://app@127.0.0.1:{self.port}/postgres"
        stack.environment["DATABASE_URL"] = url

    def start(self):
        """Start it, and wait until it takes connections."""
        command = [self.programs["postgres"], "-D", self.data, "-p", str(self.port), "-F"]
        with (self.stack.folder / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
                user=self.user,
                cwd="/",
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.stack.processes["postgres"] = self.process
        wait_until(lambda: "ready to accept" in self.stack.log("postgres").split("shut down")[-1])

    def stop(self):
        """Stop it as a restart of the host does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        del self.stack.processes["postgres"]

    def signal(self, number):
        """Send a signal to all of its processes."""
        for pid in self._family():
            os.kill(pid, number)

    def _family(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def close(self):
        """Delete its files."""
        shutil.rmtree(self.data, ignore_errors=True)
