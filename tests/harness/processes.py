"""Start and stop a project's processes and the servers that they need, on free ports."""

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from redis import Redis
from redis.exceptions import RedisError

from tests.harness.bake import find_program, project_environment, run


def free_port() -> int:
    """Return a TCP port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether something accepts connections on a port of this machine."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    condition: Callable[[], Any],
    seconds: float = 60,
    message: str = "the condition is not true",
    every: float = 0.1,
) -> Any:
    """Poll until the condition is true and return its value.

    Raises:
        AssertionError: it is not true after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{message} after {seconds:g} s")
        time.sleep(every)
    return value


# HTTP


def log_in(client: httpx.Client, email: str = "") -> httpx.Client:
    """Return a new client that is logged in as a user, who is registered if need be."""
    email = email or f"{secrets.token_hex(4)}@example.com"
    password = "correct horse battery staple"
    account = {"email": email, "password": password}
    assert client.post("/auth/register", json=account).status_code in (201, 409)
    response = client.post("/auth/token", data={"username": email, "password": password})
    assert response.status_code == 200, response.text
    headers = {"Authorization": f"Bearer {response.json()['access_token']}"}
    return httpx.Client(base_url=client.base_url, headers=headers, timeout=client.timeout)


def wait_for_task(client: httpx.Client, task_id: str, seconds: float = 60) -> dict[str, Any]:
    """Return what ``GET /task/{task_id}`` answers once the task has ended."""

    def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = client.get(f"/task/{task_id}").raise_for_status().json()
        return state if state["status"] in ("SUCCESS", "FAILURE", "REVOKED") else None

    return wait_until(ended, seconds, f"task {task_id} has not ended")


# Processes


@contextmanager
def unprivileged_folder() -> Iterator[tuple[Path, str | None]]:
    """Yield a new folder, and the user who owns it when we are root: PostgreSQL refuses root."""
    folder = Path(tempfile.mkdtemp(prefix="forge-"))
    user = None
    if os.geteuid() == 0:
        names = [entry.pw_name for entry in pwd.getpwall()]
        user = "postgres" if "postgres" in names else "nobody"
        shutil.chown(folder, user)
    try:
        yield folder, user
    finally:
        shutil.rmtree(folder)


class Stack:
    """A project's servers and processes, each on a free port, with a log file each.

    Entering starts the servers that the project's answers ask for and applies the migrations.
    Leaving kills all that still runs. ``environment`` is what the project's processes get; every
    ``start`` method takes changes to it. ``servers=False``: the test starts them itself.

        with Stack(project, tmp_path / "stack", CELERY_WORKER_CONCURRENCY="2") as stack:
            api = log_in(stack.start_api())
            stack.start_worker()
    """

    def __init__(
        self, project: Path, folder: Path, *, servers: bool = True, **environment: str
    ) -> None:
        self.project, self.folder, self.servers = project, folder, servers
        self.folder.mkdir(parents=True, exist_ok=True)
        self.answers = json.loads((project / ".forge.json").read_text())["cookiecutter"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis_port, self.database_port = free_port(), free_port()
        self.redis_options: list[str] = []
        self.redis = Redis(port=self.redis_port, socket_timeout=5)
        self.broker = Redis(port=self.redis_port, db=1, socket_timeout=5)
        redis, database = f"redis://127.0.0.1:{self.redis_port}", f"127.0.0.1:{self.database_port}"
        self.environment = {
            "DATABASE_URL": {
                "sqlite": f"sqlite:///{folder}/app.db",
                "postgresql": f"postgresql+psycopg://app:secret@{database}/app",
                "mysql": f"mysql+pymysql://app:secret@{database}/app",
            }[str(self.answers["database"])],
            "SECRET_KEY": secrets.token_hex(32),
            "TMPDIR": str(folder),  # a killed process leaves its temporary files
            "PYTHONUNBUFFERED": "1",
        }
        if self.answers["use_redis"]:
            self.environment["REDIS_URL"] = f"{redis}/0"
        if self.answers["use_celery"]:
            self.environment |= {
                "CELERY_BROKER_URL": f"{redis}/1",
                "CELERY_RESULT_BACKEND": f"{redis}/2",
                "CELERY_WORKER_CONCURRENCY": "2",
                "REMAP_SIGTERM": "SIGQUIT",  # as the image has it
            }
        if self.answers["use_backup"]:
            self.environment["BACKUP_DIR"] = str(folder / "backups")
        self.environment |= environment

    def __enter__(self) -> "Stack":
        try:
            if self.servers and self.answers["use_redis"]:
                self.start_redis()
            if self.servers and self.answers["database"] != "sqlite":
                self._server_folder = unprivileged_folder()
                self.server_folder, self.server_user = self._server_folder.__enter__()
                self._create_database_server()
                self.start_database()
            self.run("alembic", "upgrade", "head")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Servers last: what uses them would complain.
        for name in reversed(list(self.processes)):
            self.kill(name)
        self.redis.close()
        self.broker.close()
        if hasattr(self, "_server_folder"):
            self._server_folder.__exit__(None, None, None)

    # Any process

    def start(
        self, name: str, *command: str | Path, user: str | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, with its output in a file."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd="/" if user else self.project,
                env=project_environment(self.project, **self.environment | environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
            )
        return self.processes[name]

    def log(self, name: str) -> str:
        """Return what a process has written, since the first start under this name."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for_log(self, name: str, text: str, seconds: float = 60) -> None:
        """Wait until a process has written a text; fail at once when it ends before."""

        def written() -> bool:
            ended = self.processes[name].poll() is not None
            if text in self.log(name):
                return True
            assert not ended, f"{name} has ended:\n{self.log(name)[-3000:]}"
            return False

        wait_until(written, seconds, f"{name} has not written {text!r}:\n{self.log(name)[-3000:]}")

    def family(self, name: str) -> list[psutil.Process]:
        """Return a process and all of its children."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.processes[name].pid)
            return [process, *process.children(recursive=True)]
        return []

    def send_signal(self, name: str, number: int, *, family: bool = False) -> None:
        """Send a signal to a process, or to its children too."""
        if not family:
            self.processes[name].send_signal(number)
            return
        for process in self.family(name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self, name: str) -> None:
        """End a process and its children as a power cut does."""
        family = self.family(name)
        with suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.processes.pop(name).wait(30)
        psutil.wait_procs(family, timeout=30)

    def stop(self, name: str, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """End a process as a supervisor does and return its exit code."""
        self.send_signal(name, number)
        code = self.processes[name].wait(seconds)
        self.kill(name)
        return code

    # The servers

    def start_redis(self) -> None:
        """Start Redis, or start it again with the data that it has: it has an append-only file."""
        program = find_program("redis-server", "valkey-server", install="apt install redis-server")
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        options = ["--bind", "127.0.0.1", "--dir", str(data), "--appendonly", "yes", "--save", ""]
        options += ["--maxmemory-policy", "noeviction", *self.redis_options]
        self.start("redis", program, "--port", str(self.redis_port), *options)

        def answers() -> bool:
            with suppress(RedisError):
                return bool(self.redis.ping())
            return False

        wait_until(answers, 30, "Redis does not answer")

    def start_database(self) -> None:
        """Start the database server, or start it again with the data that it has."""
        self.start(
            "database",
            *self._database_command,
            user=self.server_user,
            TMPDIR=str(self.server_folder),
        )

        def ready() -> bool:
            assert self.processes["database"].poll() is None, self.log("database")
            if self.answers["database"] != "postgresql":
                return listens(self.database_port)
            # It listens before it has read its log.
            program = find_program("pg_isready", install="apt install postgresql")
            command = [program, "-q", "-h", "127.0.0.1", "-p", str(self.database_port)]
            return subprocess.run(command, check=False).returncode == 0

        wait_until(ready, 60, "the database server is not ready")

    def stop_database(self) -> None:
        """Stop the database server without waiting for its clients."""
        is_postgresql = self.answers["database"] == "postgresql"
        self.stop("database", signal.SIGINT if is_postgresql else signal.SIGTERM)

    def _create_database_server(self) -> None:
        data = self.server_folder / "data"
        if self.answers["database"] == "postgresql":
            initdb = find_program("initdb", install="apt install postgresql")
            command = [initdb, "-D", data, "-U", "app", "--auth=trust", "-E", "UTF8", "--no-sync"]
            postgres = str(Path(initdb).with_name("postgres"))
            # -F: what a test has written need not survive a power cut.
            options = ["-p", str(self.database_port), "-h", "127.0.0.1", "-k", "", "-F"]
            self._database_command = [postgres, "-D", str(data), *options]
            self._as_server(command)
            self._as_server([postgres, "--single", "-D", data, "postgres"], "CREATE DATABASE app")
            return
        program = find_program("mysqld", "mariadbd", install="apt install mariadb-server")
        script = self.server_folder / "create.sql"
        script.write_text(
            "CREATE DATABASE IF NOT EXISTS app CHARACTER SET utf8mb4;\n"
            "CREATE USER IF NOT EXISTS app@'%' IDENTIFIED BY 'secret';\n"
            "GRANT ALL ON *.* TO app@'%' WITH GRANT OPTION;\n"
        )
        options = ["--no-defaults", "--skip-name-resolve", f"--datadir={data}"]
        prepare = [program, "--initialize-insecure"]
        if "mariadb" in Path(program).resolve().name:
            prepare = [find_program("mariadb-install-db", install="apt install mariadb-server")]
        self._as_server([*prepare, *options])
        options += [f"--port={self.database_port}", "--bind-address=127.0.0.1"]
        options += [f"--{name}={self.server_folder}/{name}" for name in ("socket", "pid-file")]
        options += [f"--init-file={script}", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"]
        self._database_command = [program, *options]

    def _as_server(self, command: list[Any], input: str = "") -> None:
        subprocess.run(
            command,
            user=self.server_user,
            cwd="/",
            input=input,
            text=True,
            check=True,
            capture_output=True,
        )

    # The project

    def run(self, *command: str | Path, timeout: float = 300, **environment: str) -> str:
        """Run a command of the project, such as ``alembic upgrade head``; return its output."""
        env = project_environment(self.project, **self.environment | environment)
        path = self.project / ".venv/bin" / command[0]
        program = path if path.exists() else command[0]
        return run(program, *command[1:], cwd=self.project, env=env, timeout=timeout)

    def python(self, code: str, *arguments: str, **environment: str) -> str:
        """Run Python code in the project and return its output."""
        return self.run("python", "-c", code, *arguments, **environment)

    def start_api(
        self, name: str = "api", port: int | None = None, **environment: str
    ) -> httpx.Client:
        """Start the API and return a client for it once it answers."""
        port = port or free_port()
        uvicorn = self.project / ".venv/bin/uvicorn"
        self.start(name, uvicorn, "app.main:app", "--port", str(port), **environment)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

        def live() -> bool:
            assert self.processes[name].poll() is None, self.log(name)
            with suppress(httpx.HTTPError):
                return client.get("/health/live").status_code == 200
            return False

        wait_until(live, message="the API does not answer")
        return client

    def start_worker(
        self, name: str = "worker", *arguments: str, wait: bool = True, **environment: str
    ) -> None:
        """Start a worker and wait until it consumes."""
        lines = self.log(name).count(" ready.") if (self.folder / f"{name}.log").exists() else 0
        self._start_celery(name, "worker", "-n", f"{name}@%h", *arguments, **environment)
        if wait:

            def ready() -> bool:
                assert self.processes[name].poll() is None, self.log(name)[-3000:]
                return self.log(name).count(" ready.") > lines

            wait_until(ready, message=f"{name} is not ready")

    def start_beat(self, name: str = "beat", *arguments: str, **environment: str) -> None:
        """Start beat."""
        self._start_celery(name, "beat", *arguments, **environment)

    def start_flower(self, name: str = "flower", **environment: str) -> str:
        """Start Flower and return its address once it listens."""
        port = free_port()
        self._start_celery(name, "flower", f"--port={port}", "--address=127.0.0.1", **environment)
        wait_until(lambda: listens(port), message="Flower does not listen")
        return f"http://127.0.0.1:{port}"

    def _start_celery(self, name: str, *arguments: str, **environment: str) -> None:
        celery = self.project / ".venv/bin/celery"
        options = ["-A", "app.core.celery.celery_app", arguments[0]]
        if arguments[0] != "flower":
            options.append("--loglevel=info")
        self.start(name, celery, *options, *arguments[1:], **environment)
