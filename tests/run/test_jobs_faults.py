"""Faults on real processes: what the client saw, what ran, and how often.

Under pytest each row is a test, and some faults are shorter or fewer. ``python -m
tests.run.test_jobs_faults [words]`` prints the table of the rows whose titles contain one of the
words. The faults run side by side, each with servers, workers and databases of its own; the program
runs those with times to report alone, at the end.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import (
    Stack,
    bake,
    find_program,
    install,
    log_in,
    project_environment,
    wait_until,
)
from tests.run.envelopes import malformed

# One process runs them all, side by side.
pytestmark = pytest.mark.xdist_group("faults")

TASKS = Path(__file__).with_name("fault_tasks.py")
ENDED = ("SUCCESS", "FAILURE", "REVOKED", "IGNORED")
BOTH = ("postgresql", "sqlite")
NOTIFICATION = {"user_id": "1", "message": "x"}
Answer = tuple[int, float, str]
Row = tuple[Callable[["Faults"], str], str, dict[str, str]]
FAULTS: dict[str, Row] = {}
ALONE: set[str] = set()

FULL = __name__ == "__main__"
KILLS, KILLED_JOBS = (25, 3_000) if FULL else (5, 300)
DOWN, FROZEN = (20, 40) if FULL else (12, 12)


def fault(
    title: str, databases: tuple[str, ...] = BOTH, *, alone: bool = False, **environment: str
) -> Any:
    """Make a function a row of the table for each database. It returns what ran."""

    def register(function: Callable[["Faults"], str]) -> Callable[["Faults"], str]:
        for database in databases:
            FAULTS[f"{title} ({database})"] = (function, database, environment)
            if alone:
                ALONE.add(f"{title} ({database})")
        return function

    return register


class Faults(Stack):
    """A stack of a project with the tasks and the console of ``fault_tasks.py``."""

    def __init__(self, project: Path, folder: Path, **environment: str) -> None:
        self.runs_file = folder / "runs"
        super().__init__(project, folder, RUNS_FILE=str(self.runs_file), **environment)
        self._console: subprocess.Popen[str] | None = None

    def __exit__(self, *arguments: object) -> None:
        if self._console:
            self._console.communicate()
        super().__exit__(*arguments)

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

    def ends(self, job_id: str, status: str = "SUCCESS", seconds: float = 20) -> dict[str, Any]:
        """Wait until a job has ended and return its row."""
        found: list[dict[str, Any]] = []

        def ended() -> bool:
            found[:] = [self.row(job_id)]
            return found[0]["status"] in ENDED

        wait_until(ended, seconds, f"job {job_id} has not ended")
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

    def started(self, key: str, times: int = 1, seconds: float = 30) -> int:
        """Wait until a task was started so often; return the id of its last process."""
        wait_until(lambda: self.runs()[key] >= times, seconds, f"{key} was not run {times} times")
        return [int(line[2]) for line in self.lines() if line[0] == key][-1]

    def release(self, key: str) -> None:
        """Let a task that waits for its file end."""
        Path(f"{self.runs_file}.{key}").touch()

    def works(self, seconds: float = 40) -> None:
        """Check that a worker takes jobs."""
        self.ends(self.add("nap", key="works"), seconds=seconds)

    @property
    def queue(self) -> str:
        """The name of the key of the default queue."""
        return f"{self.answers['project_slug']}:celery"

    def published(self, number: int) -> None:
        """Wait until so many messages wait in the queue."""
        wait_until(lambda: self.broker.llen(self.queue) == number, 10, f"not {number} messages")

    def all_succeed(self, number: int, seconds: float = 90) -> None:
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


@fault("a job runs")
def runs(stack: Faults) -> str:
    stack.start_worker()
    job = stack.add("nap", key="a")
    begin = time.monotonic()
    row = stack.ends(job)
    assert (row["result"], row["attempts"], row["lost"]) == ("a", 1, 0)
    return f"{(time.monotonic() - begin) * 1000:.0f} ms"


@fault("a pool process crashes")
def pool_process_crashes(stack: Faults) -> str:
    stack.start_worker()
    job = stack.add("crash", key="a", times=1)
    begin = time.monotonic()
    row = stack.ends(job)
    assert row["lost"] == 1
    assert stack.runs() == {"a": 2}
    return f"run again, ended {time.monotonic() - begin:.1f} s after the first start"


@fault("a task that always crashes its process", JOB_MAX_ATTEMPTS="3")
def always_crashes(stack: Faults) -> str:
    stack.start_worker()
    job = stack.add("crash", key="a")
    leaves = stack.add("leave", key="b")
    row = stack.ends(job, "FAILURE")
    assert row["lost"] == 3, row
    assert "lost 3 times" in row["result"], row
    row = stack.ends(leaves, "FAILURE")
    assert row["lost"] == 3, row
    assert stack.runs() == {"a": 3, "b": 3}
    # A retry begins anew.
    stack.ask(f"retry({job!r})")
    stack.started("a", 6)
    stack.ends(job, "FAILURE")
    assert stack.runs()["a"] == 6
    stack.works()
    return "3 times with JOB_MAX_ATTEMPTS=3, then FAILURE"


@fault("crashes under load", JOB_MAX_ATTEMPTS="10")
def many_crashes(stack: Faults) -> str:
    stack.start_worker()
    stack.start_beat()
    jobs = [stack.add("crash", key=f"k{n}", times=2) for n in range(20)]
    jobs += stack.ask("naps(['n%d' % n for n in range(200)], 0.01)")
    wait_until(lambda: stack.ask("count()") == {"SUCCESS": len(jobs)}, 120)
    # No process of the pool is taken for busy for ever.
    begin = time.monotonic()
    for job in [stack.add("nap", key="x", seconds=3) for _ in range(2)]:
        stack.ends(job)
    seconds = time.monotonic() - begin
    assert seconds < 6, seconds
    return "all done"


@fault("a retry without a countdown")
def retry_at_once(stack: Faults) -> str:
    stack.start_worker()
    jobs = [stack.add("fail", key=f"k{n}", failures=2) for n in range(5)]
    begin = time.monotonic()
    for job in jobs:
        row = stack.ends(job)
        assert (row["result"], row["attempts"], row["lost"]) == (2, 3, 0), row
    seconds = time.monotonic() - begin
    job = stack.add("fail", key="x", failures=9)
    row = stack.ends(job, "FAILURE")
    assert row["attempts"] == 3
    assert seconds < 5, seconds
    return f"3 attempts, {seconds:.1f} s"


@fault("a retry at a time of another time zone")
def retry_at_a_time(stack: Faults) -> str:
    stack.start_worker()
    job = stack.add("retry_in_new_york", key="x")
    wait_until(lambda: stack.row(job)["status"] == "RETRY", 20)
    row = stack.row(job)
    due, begun = (datetime.fromisoformat(row[name]) for name in ("due_at", "started_at"))
    assert 55 < (due - begun).total_seconds() < 65, row
    return "due a minute later"


@fault("cancel and retry")
def cancel(stack: Faults) -> str:
    stack.start_worker()
    job = stack.add("nap", key="a", seconds=60)
    pid = stack.started("a")
    wait_until(lambda: stack.row(job)["status"] == "STARTED")
    assert stack.ask(f"cancel({job!r})") == "REVOKED"
    begin = time.monotonic()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10, "the process was not ended")
    seconds = time.monotonic() - begin
    stack.works()
    assert stack.row(job)["status"] == "REVOKED"
    stack.ask(f"change({job!r}, kwargs={{'key': 'a', 'seconds': 0}})")
    stack.ask(f"retry({job!r})")
    stack.ends(job, seconds=10)
    assert stack.runs() == {"a": 2, "works": 1}
    # Cancelled between two attempts.
    job = stack.add("fail", key="b", failures=1, delay=2)
    wait_until(lambda: stack.row(job)["status"] == "RETRY")
    assert stack.ask(f"cancel({job!r})") == "REVOKED"
    time.sleep(3)
    assert stack.row(job)["status"] == "REVOKED"
    assert stack.runs("retries-1")["b"] == 0
    return f"ended {seconds:.1f} s after it was cancelled; runs again on the same worker"


@fault("results and errors")
def outcomes(stack: Faults) -> str:
    stack.start_worker()
    expected = {
        "object": ("FAILURE", "not JSON serializable"),
        "nan": ("FAILURE", "not JSON compliant"),
        "odd": ("FAILURE", "OddError: ('odd object'"),
        "silent": ("FAILURE", "SilentError"),
        "base": ("FAILURE", "GeneratorExit: no"),
        "deep": ("FAILURE", "JSON cannot hold the return value"),
        "surrogate": ("FAILURE", "JSON cannot hold the return value"),
        "text": ("FAILURE", "ValueError: no"),
        "ignore": ("IGNORED", ""),
        "reject": ("FAILURE", "rejected"),
    }
    jobs = {kind: stack.add("outcome", key=kind, kind=kind) for kind in expected}
    for kind, (status, text) in expected.items():
        row = stack.ends(jobs[kind], status)
        assert text in (row["result"] or ""), row
        assert row["finished_at"], row
    stack.works()
    runs = stack.runs()
    assert all(runs[kind] == 1 for kind in expected)
    return "FAILURE with type and message, once each"


@fault("a nested transaction")
def nested(stack: Faults) -> str:
    stack.start_worker()
    stack.works()
    # A plain session, which expires its objects at the commit.
    outer = stack.ask("enqueue(session, nap, key='outer').id")
    stack.ask("names.update(savepoint=session.begin_nested())")
    inner = stack.ask("enqueue(session, nap, key='inner').id")
    stack.ask("savepoint.commit()")
    stack.ask("names.update(savepoint=session.begin_nested())")
    gone = stack.ask("enqueue(session, nap, key='gone').id")
    stack.ask("savepoint.rollback()")
    time.sleep(1)
    begin = time.monotonic()
    stack.ask("session.commit()")
    stack.ends(outer)
    stack.ends(inner)
    seconds = time.monotonic() - begin
    assert stack.ask(f"rows({gone!r})") == []
    assert stack.runs() == {"works": 1, "outer": 1, "inner": 1}
    assert seconds < 5, seconds
    return f"after the outer commit, {seconds:.1f} s; not what was rolled back"


@fault("the transaction is rolled back")
def rolled_back(stack: Faults) -> str:
    stack.start_worker()
    running = stack.add("nap", key="running", seconds=4)
    stack.started("running")
    stack.ask("enqueue(session, nap, key='gone').id")
    stack.ask("session.rollback()")
    # A cancellation that was rolled back is not sent with the next commit.
    wait_until(lambda: stack.row(running)["status"] == "STARTED")
    assert stack.ask(f"cancel_job(session, {running!r}).status") == "REVOKED"
    stack.ask("session.rollback()")
    stack.ask("enqueue(session, nap, key='next').id")
    stack.ask("session.commit()")
    stack.ends(running)
    assert stack.runs() == {"running": 1, "next": 1}
    assert len(stack.ask("rows()")) == 2
    return "never"


@fault("kill -9 of the API between commit and publish")
def api_killed(stack: Faults) -> str:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects and never answers
        broker = f"redis://127.0.0.1:{silent.getsockname()[1]}/1"
        api = log_in(stack.start_api(CELERY_BROKER_URL=broker))
        answer = api.post("/notify", params={"user_id": 1, "message": "x"})
        assert answer.status_code == 202
        stack.kill("api")
    stack.start_worker()
    stack.start_beat()
    begin = time.monotonic()
    row = stack.ends(answer.json()["task_id"], seconds=30)
    assert row["attempts"] == 1
    return f"202; once, {time.monotonic() - begin:.0f} s after beat had been started"


@fault("a message is delivered again: while the job runs, after it has ended, after cancellation")
def delivered_twice(stack: Faults) -> str:
    stack.start_worker()
    job = stack.add("nap", key="a", seconds=3)
    stack.started("a")
    stack.ask(f"again({job!r}, 0)")
    stack.ask(f"again({job!r}, 0)")
    stack.ends(job)
    stack.ask(f"again({job!r}, 0)")
    stack.ask(f"again({job!r}, 1)")
    stack.works()
    stack.stop("worker")
    cancelled = stack.add("nap", key="b")
    assert stack.ask(f"cancel({cancelled!r})") == "REVOKED"
    stack.published(1)
    stack.start_worker()
    stack.works()
    assert stack.row(cancelled)["status"] == "REVOKED"
    assert stack.row(job)["attempts"] == 1
    assert stack.runs() == {"a": 1, "works": 2}
    return "once; never after cancellation"


@fault("FLUSHALL with 200 jobs waiting")
def flushed(stack: Faults) -> str:
    stack.ask("naps(['k%d' % n for n in range(200)])")
    stack.published(200)
    stack.redis.flushall()
    # What is queued afterwards does not keep the others from being found.
    stack.ask("naps(['late%d' % n for n in range(20)], 0.2)")
    stack.start_worker()
    stack.start_beat()
    begin = time.monotonic()
    stack.all_succeed(220)
    assert set(stack.runs().values()) == {1}
    return f"all once, {time.monotonic() - begin:.0f} s after the worker had been started"


@fault("200 jobs that wait for up to 30 s")
def long_queue(stack: Faults) -> str:
    stack.ask("naps(['k%d' % n for n in range(200)], 0.3)")
    stack.published(200)
    stack.start_beat()
    stack.start_worker()
    wait_until(lambda: len(stack.runs()) >= 150)
    waiting = stack.broker.llen(stack.queue)
    assert waiting <= 50, "messages were sent twice"
    stack.all_succeed(200)
    assert set(stack.runs().values()) == {1}
    return "one message for each job"


@fault("kill -9 of a worker in mid-job; one of its name comes back")
def worker_comes_back(stack: Faults) -> str:
    stack.start_worker()
    jobs = [stack.add("hold", key="a"), stack.add("progress", key="p")]
    stack.started("a")
    stack.started("p")
    wait_until(lambda: stack.row(jobs[1])["result"] == {"done": 3})
    assert stack.row(jobs[1])["status"] == "PROGRESS"
    stack.kill("worker")
    begin = time.monotonic()
    stack.start_worker()
    ready = time.monotonic()
    stack.started("a", 2)
    stack.started("p", 2)
    seconds = time.monotonic() - begin
    assert time.monotonic() - ready < 10, seconds
    stack.release("a")
    stack.release("p")
    for one in jobs:
        row = stack.ends(one)
        assert (row["attempts"], row["lost"]) == (2, 1)
    return f"again {seconds:.0f} s after the kill"


@fault(
    "kill -9 of a worker in mid-job; none of its name comes back; time limit 5 s",
    CELERY_TASK_SOFT_TIME_LIMIT="4",
    CELERY_TASK_TIME_LIMIT="5",
)
def worker_stays_away(stack: Faults) -> str:
    stack.start_worker("one")
    job = stack.add("nap", key="a", seconds=2)
    stack.started("a")
    stack.kill("one")
    begin = time.monotonic()
    stack.start_worker("two")
    stack.start_beat()
    stack.ends(job, seconds=60)
    assert stack.runs() == {"a": 2}
    return f"again {time.monotonic() - begin - 2:.0f} s after the kill: when the limit is over"


@fault(
    "a worker is frozen (SIGSTOP) for longer than the time limit of its job, 5 s",
    CELERY_TASK_SOFT_TIME_LIMIT="4",
    CELERY_TASK_TIME_LIMIT="5",
)
def worker_frozen(stack: Faults) -> str:
    stack.start_worker("one")
    job = stack.add("stubborn", key="a", seconds=20, then=3)
    stack.started("a")
    stack.send_signal("one", signal.SIGSTOP, family=True)
    stack.start_beat()
    wait_until(lambda: stack.row(job)["lost"] == 1, 60)
    stack.start_worker("two")
    stack.started("a", 2)
    stack.send_signal("one", signal.SIGCONT, family=True)
    stack.wait_for_log("one", "Hard time limit")
    row = stack.ends(job, seconds=40)
    assert row["attempts"] == 2
    return "again on another worker; the outcome of the first attempt is not recorded"


@fault("SIGTERM in mid-job, with REMAP_SIGTERM=SIGQUIT")
def sigterm(stack: Faults) -> str:
    stack.start_worker("one")
    short = stack.add("nap", key="short", seconds=6)
    long = stack.add("hold", key="long")
    stack.started("short")
    stack.started("long")
    begin = time.monotonic()
    code = stack.stop("one")
    seconds = time.monotonic() - begin
    row = stack.row(long)
    assert (row["status"], row["lost"]) == ("PENDING", 0), row
    stack.release("long")
    stack.start_worker("two")
    stack.ends(short)
    row = stack.ends(long)
    assert (row["attempts"], row["lost"]) == (2, 0), row
    assert stack.runs() == {"short": 1, "long": 2}
    assert stack.runs("end") == {"short": 1, "long": 1}
    return (
        "6 s job: once, to its end; a longer one: handed back, run by the next worker; "
        f"exit code {code} after {seconds:.0f} s"
    )


@fault("SIGTERM in mid-job, without REMAP_SIGTERM")
def sigterm_warm(stack: Faults) -> str:
    stack.start_worker("one", REMAP_SIGTERM="")
    job = stack.add("nap", key="a", seconds=6)
    stack.started("a")
    assert stack.stop("one") == 0
    assert stack.row(job)["status"] == "SUCCESS"
    assert stack.runs() == {"a": 1}
    return "once, to its end"


@contextmanager
def database_away(stack: Faults) -> Iterator[None]:
    """Stop PostgreSQL; lock SQLite."""
    if stack.answers["database"] == "sqlite":
        with closing(sqlite3.connect(stack.folder / "app.db")) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.rollback()
    else:
        stack.stop_database()
        yield
        stack.start_database()


@fault("the database is away when a job ends, and when it is to begin", DATABASE_TIMEOUT="1")
def database_stopped(stack: Faults) -> str:
    stack.start_worker()
    stack.start_beat()
    jobs = [stack.add("hold", key=key) for key in ("a", "b")]
    stack.started("a")
    stack.started("b")
    jobs += [stack.add("nap", key=key) for key in ("c", "d")]
    crashed = stack.add("crash", key="e", times=1)
    with database_away(stack):
        stack.release("a")
        stack.release("b")
        wait_until(lambda: "the outcome waits" in stack.log("worker"))
        wait_until(lambda: stack.log("beat").count("unavailable, trying again") > 1)
    begin = time.monotonic()
    for job in [*jobs, crashed]:
        row = stack.ends(job, seconds=60)
    seconds = time.monotonic() - begin
    assert row["lost"] == 1
    assert stack.runs("end") == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}
    return f"once; waiting jobs begin when it is back (all done {seconds:.0f} s later)"


@fault(
    "past the soft and the hard time limit",
    CELERY_TASK_SOFT_TIME_LIMIT="2",
    CELERY_TASK_TIME_LIMIT="4",
)
def time_limits(stack: Faults) -> str:
    stack.start_worker()
    soft = stack.add("nap", key="soft", seconds=60)
    hard = stack.add("stubborn", key="hard", seconds=60)
    assert "SoftTimeLimitExceeded" in stack.ends(soft, "FAILURE")["result"]
    assert "TimeLimitExceeded" in stack.ends(hard, "FAILURE")["result"]
    stack.works()
    assert stack.runs() == {"soft": 1, "hard": 1, "works": 1}
    return "FAILURE: SoftTimeLimitExceeded, TimeLimitExceeded; once each"


@fault("a task that no longer exists")
def unknown(stack: Faults) -> str:
    row = "change({!r}, task='app.tasks.gone.gone', published_at=None)"
    dispatched = stack.add("nap", key="a", countdown=3600)
    stack.ask(f"change({dispatched!r}, task='app.tasks.gone.gone', due_at=DATABASE_NOW)")
    published = stack.add("extra", key="b")
    stack.published(1)
    stack.start_worker(WITHOUT_EXTRA="1")
    stack.start_beat()
    assert "gone.gone" in stack.ends(dispatched, "FAILURE")["result"], row
    assert "extra" in stack.ends(published, "FAILURE")["result"]
    return "FAILURE: NotRegistered"


@fault("retries, lost attempts and a manual retry")
def retries(stack: Faults) -> str:
    stack.start_worker()
    job = stack.add("crash_then_fail", key="a")
    row = stack.ends(job, "FAILURE")
    events = [line[1] for line in stack.lines()]
    assert events == ["retries-0", "retries-1", "retries-0", "retries-1", "retries-2"], events
    assert (row["attempts"], row["lost"]) == (5, 1)
    stack.ask(f"retry({job!r})")
    row = stack.ends(job, "FAILURE")
    wait_until(lambda: len(stack.lines()) == 8)
    events = [line[1] for line in stack.lines()][5:]
    assert events == ["retries-0", "retries-1", "retries-2"], events
    return "max_retries counts from the last lost attempt or manual retry"


@fault("a parent is cancelled")
def parent_cancelled(stack: Faults) -> str:
    stack.start_worker()
    job = stack.add("parent", key="a", seconds=4)
    stack.started("a")
    stack.started("a-child")
    stack.ask(f"cancel({job!r})")
    wait_until(lambda: stack.runs("end") == {"a-child": 1}, 15)
    assert stack.row(job)["status"] == "REVOKED"
    return "its children run on"


@fault("two beats, one killed, both started again", BEAT_EVERY="3")
def two_beats(stack: Faults) -> str:
    stack.start_worker()

    def ticks() -> int:
        return stack.runs()["tick"]

    stack.start_beat("one")
    wait_until(lambda: ticks() >= 1, message="beat queued nothing")
    stack.start_beat("two")
    stack.wait_for_log("two", "beat: Starting")
    begin, first = time.monotonic(), ticks()
    wait_until(lambda: ticks() >= first + 4, message="the schedule stands still")
    seconds = time.monotonic() - begin
    assert seconds > 3 * 3 - 1, "doubled"
    stack.kill("one")
    before, begin = ticks(), time.monotonic()
    wait_until(lambda: ticks() > before, 20, "the second beat does nothing")
    seconds = time.monotonic() - begin
    stack.stop("two")
    before = ticks()
    time.sleep(8)  # Two runs are missed.
    stack.start_beat("three")
    wait_until(lambda: ticks() > before, 20, "a missed run was not made up for")
    begin = time.monotonic()
    wait_until(lambda: ticks() > before + 2, 20)
    assert time.monotonic() - begin > 3, "a missed run was made up for twice"
    rows = stack.ask("rows()")
    assert {row["schedule"] for row in rows} == {"tick"}
    return f"each run once; the next one {seconds:.0f} s after the kill; missed runs: one, at once"


def ahead() -> dict[str, str]:
    """Return the environment of a process whose clock is a day ahead."""
    find_program("faketime", install="apt install faketime")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return {"LD_PRELOAD": str(library), "FAKETIME": "+1d"}


@fault("a worker whose clock is a day ahead", databases=("postgresql",))
def worker_clock(stack: Faults) -> str:
    stack.start_worker("one")
    stack.start_beat()
    job = stack.add("nap", key="a", seconds=8)
    stack.started("a")
    stack.start_worker("two", **ahead())
    other = stack.add("nap", key="b", seconds=4)
    stack.started("b")
    retried = stack.add("fail", key="c", failures=2, delay=1)
    for one in (job, other, retried):
        stack.ends(one)
    assert stack.runs() == {"a": 1, "b": 1}
    return "once"


@fault("a beat whose clock is a day ahead, for a while", ("postgresql",), BEAT_EVERY="3")
def beat_clock(stack: Faults) -> str:
    stack.start_worker()
    later = stack.add("nap", key="later", countdown=3600)
    stack.start_beat("right")
    wait_until(lambda: stack.runs()["tick"] >= 1)
    stack.stop("right")
    stack.start_beat("wrong", **ahead())
    before = stack.runs()["tick"]
    begin = time.monotonic()
    wait_until(lambda: stack.runs()["tick"] >= before + 3, 30)
    assert time.monotonic() - begin > 5
    stack.stop("wrong")
    stack.start_beat("again")
    before = stack.runs()["tick"]
    wait_until(lambda: stack.runs()["tick"] >= before + 2, 30, "the schedule stands still")
    assert stack.row(later)["status"] == "PENDING"
    others = {row["schedule"] for row in stack.ask("rows()")}
    assert others == {"tick", None}, f"{others} ran a day early"
    return "runs neither early nor twice, and goes on: the clock of the database counts"


@contextmanager
def clients(api: httpx.Client, number: int = 8) -> Iterator[list[Answer]]:
    """Queue notifications all the time. The list gets each answer's status, seconds and job."""
    answers: list[Answer] = []
    stop = threading.Event()
    headers = log_in(api).headers

    def post() -> None:
        with httpx.Client(base_url=api.base_url, headers=headers, timeout=30) as client:
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


def milliseconds(answers: list[Answer]) -> str:
    """Return how long answers took."""
    times = sorted(1_000 * seconds for _, seconds, _ in answers)
    middle, high = times[len(times) // 2], times[len(times) * 99 // 100]
    return f"p50 {middle:.0f}, p99 {high:.0f}, slowest {times[-1]:.0f} ms"


def under_load(stack: Faults, outage: AbstractContextManager[None], seconds: float) -> str:
    """Queue jobs by HTTP before, during and after an outage of Redis."""
    api = stack.start_api()
    stack.start_beat()
    with stack.supervised("worker"):
        with clients(api) as answers:
            wait_until(lambda: len(answers) >= 500)
            with outage:
                begin = len(answers)
                time.sleep(seconds)
                end = len(answers)
            back = time.monotonic()
            wait_until(lambda: len(answers) >= end + 100)
        assert end - begin > 100, answers[begin:]
        codes = Counter(code for code, _, _ in answers)
        assert codes == {202: len(answers)}, codes
        stack.all_succeed(len(answers), 180)
        back = time.monotonic() - back
    assert len(stack.runs("end")) == len(answers)
    assert set(stack.runs("end").values()) == {1}
    # Generous, since other faults run beside it. Who waits for Redis waits longer.
    assert max(seconds for _, seconds, _ in answers[begin:end]) < (1 if FULL else 3)
    return (
        f"{len(answers)} answers, all 202: {milliseconds(answers[100:begin])} before, "
        f"{milliseconds(answers[begin:end])} meanwhile; "
        f"each job once, the last {back:.0f} s after it was back"
    )


@fault(f"Redis is down for {DOWN} s under load", alone=True, JOB_MAX_WAITING_PER_USER="100000")
def redis_down(stack: Faults) -> str:
    return under_load(stack, without_redis(stack), DOWN)


@fault(f"Redis is frozen for {FROZEN} s under load", alone=True, JOB_MAX_WAITING_PER_USER="100000")
def redis_frozen(stack: Faults) -> str:
    return under_load(stack, frozen_redis(stack), FROZEN)


@fault("Redis is restarted under running jobs; a supervisor restarts the worker")
def redis_restarted(stack: Faults) -> str:
    stack.start_beat()
    with stack.supervised("worker"):
        for key in ("a", "b"):
            stack.add("hold", key=key)
            stack.started(key)
        stack.ask("naps(['k%d' % n for n in range(50)], 0.05)")
        with without_redis(stack):
            stack.release("a")
            wait_until(lambda: stack.runs("end")["a"] == 1)
        stack.release("b")
        begin = time.monotonic()
        stack.all_succeed(52)
        seconds = time.monotonic() - begin
    twice = sum(1 for times in stack.runs().values() if times > 1)
    restarts = stack.log("worker").count(" ready.") - 1
    return (
        f"all, {twice} of 52 twice; worker restarted {restarts} times; done after {seconds:.0f} s"
    )


@fault(f"kill -9 of the whole worker {KILLS} times, {KILLED_JOBS} jobs", alone=True)
def worker_killed_often(stack: Faults) -> str:
    stack.start_beat()
    each = KILLED_JOBS // KILLS
    with stack.supervised("worker"):
        for number in range(KILLS):
            first, last = number * each, (number + 1) * each
            stack.ask(f"naps(['k%d' % n for n in range({first}, {last})], 0.02)")
            wait_until(lambda half=(first + last) / 2: len(stack.runs("end")) > half)
            stack.kill_group("worker")
        stack.all_succeed(KILLED_JOBS, 120)
    begun, done = stack.runs("start"), stack.runs("end")
    assert len(done) == KILLED_JOBS
    interrupted = sum(1 for key in begun if begun[key] > done[key])
    twice = sum(1 for key in done if done[key] > 1)
    return (
        f"0 of {KILLED_JOBS} lost; {interrupted} were interrupted and run again; {twice} ran twice"
    )


@fault("two dispatchers at once, 500 jobs")
def two_dispatchers(stack: Faults) -> str:
    stack.ask("naps(['k%d' % n for n in range(500)], countdown=0.1)")
    code = (
        "import sys, time; from pathlib import Path; from app.core.celery import celery_app;"
        "from app.jobs._dispatcher import dispatch; print('ready')\n"
        "while not Path(sys.argv[1]).exists(): time.sleep(0.001)\n"
        "print('published', dispatch(celery_app))"
    )
    start = stack.folder / "start"
    python = stack.project / ".venv/bin/python"
    for name in ("one", "two"):
        stack.start(name, python, "-c", code, str(start))
        stack.wait_for_log(name, "ready")
    time.sleep(0.2)  # The jobs are due.
    start.touch()
    for name in ("one", "two"):
        assert stack.processes[name].wait(60) == 0, stack.log(name)
    published = [int(stack.log(name).split("published ")[1]) for name in ("one", "two")]
    stack.start_worker()
    stack.all_succeed(500)
    assert set(stack.runs().values()) == {1}
    return f"each once; they published {published[0]} and {published[1]} messages"


# The other project is on SQLite.
@fault("two projects on one Redis", ("postgresql",), BEAT_EVERY="1")
def two_projects(stack: Faults) -> str:
    project = bake_faults(stack.folder, "sqlite", slug="other")
    names = ("REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
    redis = {name: stack.environment[name] for name in names}
    with Faults(project, stack.folder / "other", servers=False, **redis) as other:
        both = {"mine": stack, "other": other}
        for name, one in both.items():
            one.start_worker(name)
            one.start_beat()
        jobs = {}
        for name, one in both.items():
            jobs[name] = one.ask(f"naps(['{name}-%d' % n for n in range(30)])")
            one.ask(f"[nap.delay('{name}-delayed-%d' % n) for n in range(30)] and None")
        for name, one in both.items():
            wait_until(lambda one=one: len(one.runs("end")) >= 60)
            keys = {key for key in one.runs() if key != "tick"}
            assert len(keys) == 60, keys
            assert all(key.startswith(name) for key in keys), keys
        # Nothing of one is seen by the other.
        wait_until(lambda: stack.runs()["tick"] >= 3)
        assert other.runs()["tick"] == 0
        for name, one in both.items():
            for question in ("active", "registered", "scheduled", "ping"):
                answer = one.ask(f"celery_app.control.inspect(timeout=2).{question}()")
                assert [node.split("@")[0] for node in answer] == [name], answer
        for job in jobs["mine"]:
            assert job not in other.log("other")
        for job in jobs["other"]:
            assert job not in stack.log("mine")
        # Jobs with the same id, of which one is cancelled.
        job = stack.add("hold", key="same")
        mine = stack.started("same")
        other.ask("names.update(job=enqueue(session, hold, countdown=0.1, key='same'))")
        other.ask(f"setattr(job, 'id', {job!r})")
        other.ask("session.commit()")
        pid = other.started("same")
        wait_until(lambda: stack.row(job)["status"] == "STARTED")
        stack.ask(f"cancel({job!r})")
        wait_until(lambda: not Path(f"/proc/{mine}").exists(), 10, "the process was not ended")
        stack.ask(f"celery_app.control.revoke({job!r}, terminate=True)")
        stack.works()
        other.works()
        assert Path(f"/proc/{pid}").exists()
        other.release("same")
        other.ends(job)
        assert other.runs()["same"] == 1
        prefixes = tuple(f"{one.answers['project_slug']}:".encode() for one in both.values())
        for number in range(3):
            stack.redis.select(number)
            keys = stack.redis.keys()
            assert all(key.startswith(prefixes) for key in keys), keys
    return "neither takes, sees, revokes or schedules for the other"


@fault("malformed messages, each of another kind; a supervisor restarts the worker")
def malformed_messages(stack: Faults) -> str:
    options = ("--without-mingle", "--without-gossip")
    valid = stack.add("nap", key="valid")
    stack.published(1)
    envelopes = malformed(json.loads(stack.broker.rpop(stack.queue)))
    names = list(envelopes)[:: 1 if FULL else 6]
    # Each is of a job that exists and is not due.
    jobs = stack.ask(f"add('nap', {len(names)}, key='early', countdown=3600)")
    ends: Counter[str] = Counter()
    removed = set()
    stack.start_worker("worker", *options)
    for job, name in zip(jobs, names, strict=True):
        stack.broker.lpush(stack.queue, envelopes[name].replace(valid.encode(), job.encode()))
        next_job = stack.add("nap", key=name.replace(" ", "_"))
        begin = time.monotonic()
        while stack.row(next_job)["status"] != "SUCCESS":
            looping = time.monotonic() - begin > 15
            if looping:  # Celery connects to Redis again and again.
                stack.stop("worker")
            if looping or stack.processes["worker"].poll() is not None:
                ends[name] += 1
                if looping or ends[name] == 2:  # As docs/tasks.md says.
                    assert name not in removed, f"{name}: {stack.log('worker')[-3000:]}"
                    removed.add(name)
                    stack.broker.rpop(stack.queue)
                begin = time.monotonic()
                stack.start_worker("worker", *options)
            time.sleep(0.05)
    # What a worker that is killed has not acknowledged comes back from a hash.
    stack.stop("worker")
    held = [stack.queue.removesuffix("celery") + name for name in ("unacked", "unacked_index")]
    stack.broker.hset(held[0], "tag", "null")
    stack.broker.zadd(held[1], {"tag": 1})
    for _ in range(2):
        stack.start_worker("worker", *options, wait=False)
        stack.processes["worker"].wait(60)
    stack.broker.delete(*held)  # As docs/tasks.md says.
    stack.start_worker("worker", *options)
    stack.start_beat()
    stack.ends(valid, seconds=60)
    stack.works()
    early = {job: stack.row(job) for job in jobs}
    assert all(row["status"] in ("PENDING", *ENDED) for row in early.values()), early
    return (
        f"of {len(names)}, {len(names) - len(ends)} are ignored, {len(ends) - len(removed)} end "
        f"Celery once, {len(removed)} until they are removed; all jobs behind them run"
    )


def bake_faults(folder: Path, database: str, slug: str = "faults") -> Path:
    """Return a new project with the tasks of ``fault_tasks.py``."""
    project = bake(folder, project_slug=f"{slug}-{database}", database=database)
    shutil.copy(TASKS, project / "app/tasks")
    install(project, None, "--no-dev")
    return project


def run(title: str, project: Callable[[str], Path]) -> str:
    """Run a fault and return what it says."""
    function, database, environment = FAULTS[title]
    with (
        tempfile.TemporaryDirectory(prefix="forge-") as folder,
        Faults(project(database), Path(folder), **environment) as stack,
    ):
        try:
            return function(stack)
        except BaseException as error:
            for name in sorted(Path(folder).glob("*.log")):
                tail = name.read_text(errors="replace")[-3000:]
                error.add_note(f"--- {name.name}\n{tail}")
            raise


class Run:
    """Faults side by side, or one by one."""

    def __init__(self, titles: list[str], at_once: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forge-")
        self._projects = {}
        for database in {FAULTS[title][1] for title in titles}:
            self._projects[database] = bake_faults(Path(self._folder.name), database)
        self._threads = ThreadPoolExecutor(at_once)
        self.rows = {
            title: self._threads.submit(run, title, self._projects.__getitem__) for title in titles
        }

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._folder.cleanup()


@pytest.fixture(scope="module")
def all_faults(request: pytest.FixtureRequest) -> Iterator[Run]:
    titles = [
        item.callspec.params["title"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module.__name__ == __name__
        and hasattr(item, "callspec")
    ]
    faults = Run(titles, at_once=5)
    yield faults
    faults.close()


@pytest.mark.parametrize("title", FAULTS)
def test_fault(title: str, all_faults: Run) -> None:
    all_faults.rows[title].result()


def main(words: list[str]) -> int:
    """Print the table and return the number of rows that failed."""
    titles = [title for title in FAULTS if not words or any(word in title for word in words)]
    failed = 0
    for some, at_once in (
        ([title for title in titles if title not in ALONE], 5),
        ([title for title in titles if title in ALONE], 1),
    ):
        faults = Run(some, at_once)
        for title, row in faults.rows.items():
            try:
                print(f"| {title} | {row.result()} |", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAILED: {title}", flush=True)
                traceback.print_exception(error)
        faults.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
