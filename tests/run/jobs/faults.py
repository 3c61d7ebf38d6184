"""A project with tasks that fail in many ways, on real servers that its tests share."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.harness import Stack, bake, install, log_in, project_environment, wait_until

TASKS = Path(__file__).with_name("fault_tasks.py")
ENDED = ("SUCCESS", "FAILURE", "REVOKED")
SERVERS = ("redis", "database")
NOTIFICATION = {"user_id": "1", "message": "x"}
Answer = tuple[int, float, str]


def bake_faults(folder: Path, database: str, slug: str = "faults") -> Path:
    """Return a new project with the tasks of ``fault_tasks.py``."""
    project = bake(folder, project_slug=f"{slug}-{database}", database=database)
    shutil.copy(TASKS, project / "app/tasks")
    install(project, None, "--no-dev")
    return project


class Faults(Stack):
    """A stack with a console in the project, and a file with what ran."""

    def __init__(self, project: Path, folder: Path, **environment: Any) -> None:
        self.runs_file = folder / "runs"
        super().__init__(project, folder, RUNS_FILE=str(self.runs_file), **environment)
        self._console: subprocess.Popen[str] | None = None

    def __exit__(self, *arguments: object) -> None:
        if self._console:
            self._console.communicate()
        super().__exit__(*arguments)

    def reset(self) -> None:
        """End all processes but the servers, and delete what they have left."""
        for name in set(self.processes) - set(SERVERS):
            self.kill(name)
        if "redis" not in self.processes:
            self.start_redis()
        self.redis.flushall()
        self.ask("clear()")
        for path in {*self.folder.glob("runs*"), *self.folder.glob("*.log")}:
            if path.stem not in (*SERVERS, "console"):
                path.unlink()

    # The console

    def ask(self, expression: str) -> Any:
        """Evaluate an expression in a process of the project that stays."""
        if self._console is None:
            python = self.project / ".venv/bin/python"
            with (self.folder / "console.log").open("ab") as log:
                self._console = subprocess.Popen(
                    [python, "-m", "app.tasks.fault_tasks"],
                    cwd=self.project,
                    env=project_environment(self.project, **self.environment),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        assert self._console.stdin
        assert self._console.stdout
        self._console.stdin.write(json.dumps(expression) + "\n")
        self._console.stdin.flush()
        answer = json.loads(self._console.stdout.readline())
        assert "value" in answer, answer
        return answer["value"]

    def add(self, task: str, **options: Any) -> str:
        """Queue a job and return its id."""
        return self.ask(f"add({task!r}, **{options!r})")[0]

    def row(self, job_id: str) -> dict[str, Any]:
        """Return what the database has of a job."""
        return self.ask(f"rows({job_id!r})")[0]

    def ends(self, job_id: str, status: str = "SUCCESS", seconds: float = 60) -> dict[str, Any]:
        """Wait until a job has ended and return its row."""
        found: list[dict[str, Any]] = []

        def ended() -> bool:
            found[:] = [self.row(job_id)]
            return found[0]["status"] in ENDED

        wait_until(ended, seconds, f"job {job_id} has not ended: {found}")
        assert found[0]["status"] == status, found
        return found[0]

    # What ran

    def lines(self) -> list[list[str]]:
        """Return key, event, process id and time of everything that ran."""
        if not self.runs_file.exists():
            return []
        return [line.split() for line in self.runs_file.read_text().splitlines()]

    def runs(self, event: str = "start") -> Counter[str]:
        """Return how often each key was started, or has ended."""
        return Counter(line[0] for line in self.lines() if line[1] == event)

    def started(self, key: str, times: int = 1, seconds: float = 60) -> int:
        """Wait until a task was started so often; return the id of its last process."""
        wait_until(lambda: self.runs()[key] >= times, seconds, f"{key} was not run {times} times")
        return [int(line[2]) for line in self.lines() if line[0] == key][-1]

    def release(self, key: str) -> None:
        """Let a task that waits for its file end."""
        Path(f"{self.runs_file}.{key}").touch()

    def works(self) -> None:
        """Check that a worker takes jobs."""
        self.ends(self.add("nap", key="works"))

    @property
    def queue(self) -> str:
        """The name of the key of the default queue."""
        return f"{self.answers['project_slug']}:celery"

    def published(self, number: int) -> None:
        """Wait until so many messages wait in the queue."""
        wait_until(lambda: self.broker.llen(self.queue) == number, 30, f"not {number} messages")

    def all_succeed(self, number: int, seconds: float = 180) -> None:
        """Wait until so many jobs, and no others, exist and have succeeded."""
        wait_until(
            lambda: self.ask("count()") == {"SUCCESS": number},
            seconds,
            f"not all of {number} jobs succeeded",
            every=0.5,
        )

    def kill_group(self, name: str) -> None:
        """Kill the process group of a supervised worker."""
        with suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)

    @contextmanager
    def supervised(self, *names: str, **environment: str) -> Iterator[None]:
        """Run workers that are started again when they end, as Compose does."""
        stop = threading.Event()
        for name in names:
            self.start_worker(name, **environment)

        def watch() -> None:
            while not stop.wait(0.2):
                for name in names:
                    if self.processes[name].poll() is not None:
                        self.start_worker(name, wait=False, **environment)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def clients(api: httpx.Client, number: int = 8) -> Iterator[list[Answer]]:
    """Queue notifications all the time. The list gets each answer's status, seconds and job."""
    answers: list[Answer] = []
    stop = threading.Event()
    headers = log_in(api).headers

    def post() -> None:
        with httpx.Client(base_url=api.base_url, headers=headers, timeout=60) as client:
            while not stop.wait(0.1):
                begin, code, job = time.monotonic(), 0, ""
                with suppress(httpx.HTTPError):
                    answer = client.post("/notify", params=NOTIFICATION)
                    code, job = answer.status_code, answer.json().get("task_id", "")
                answers.append((code, time.monotonic() - begin, job))

    threads = [threading.Thread(target=post) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def without_redis(stack: Faults) -> Iterator[None]:
    """Kill Redis, and start it again with what it had written to its disk."""
    stack.kill("redis")
    yield
    stack.start_redis()


@contextmanager
def frozen_redis(stack: Faults) -> Iterator[None]:
    """Freeze Redis: connections are accepted, and nothing is answered."""
    stack.send_signal("redis", signal.SIGSTOP)
    yield
    stack.send_signal("redis", signal.SIGCONT)
