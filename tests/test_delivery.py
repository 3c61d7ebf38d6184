"""Faults on real processes: what the client saw, what ran, how often.

``python -m tests.test_delivery`` prints the table of it; under pytest each row is a test. The
faults run side by side, each with a Redis, workers and databases of its own.
"""

import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.tables import write
from tests.stack import Postgres, Stack, bake, wait_until

# One process runs them all, side by side.
pytestmark = pytest.mark.xdist_group("delivery")

# What a fault test hands back for the table.
FAULTS = {}
# Seconds; a lost worker is noticed after 45 by default, so most faults are run with less.
QUICK = {"CELERY_LOST_WORKER_TIMEOUT": "10"}


def fault(title, database="sqlite", **environment):
    """Make a function a row of the table. It gets a stack and returns (client saw, what ran)."""

    def register(function):
        FAULTS[title] = (function, database, environment)
        return function

    return register


def pid_of(stack, key):
    """Return the process that ran a task last."""
    lines = [line.split() for line in stack.runs_file.read_text().splitlines()]
    return [int(pid) for name, _, pid, _ in lines if name == key][-1]


def settled(stack, seconds=30):
    """Wait until no message is waiting or taken."""
    wait_until(
        lambda: not stack.unacknowledged() and not stack.broker.llen("celery"),
        seconds,
        "messages are left",
    )


def works(stack, seconds=40):
    """Check that a worker takes a task, without anybody's help."""
    assert stack.queue("nap", "afterwards").get(timeout=seconds) == "afterwards"


class Load:
    """A client that queues without a pause and notes every answer."""

    def __init__(self, api):
        self.api = api
        self.accepted, self.refused, self.slowest, self.slowest_live = [], 0, 0.0, 0.0
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._queue, self._look)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _queue(self):
        while not self._stopped.wait(0.02):
            begin = time.monotonic()
            answer = self.api.post("/notify", params={"user_id": 1, "message": "x"})
            self.slowest = max(self.slowest, time.monotonic() - begin)
            if answer.status_code == 202:
                self.accepted.append(answer.json()["task_id"])
            else:
                assert answer.status_code == 503, answer.text
                assert answer.headers["Retry-After"]
                self.refused += 1

    def _look(self):
        with httpx.Client(base_url=self.api.base_url) as other:
            while not self._stopped.wait(0.05):
                begin = time.monotonic()
                assert other.get("/health/live").status_code == 200
                self.slowest_live = max(self.slowest_live, time.monotonic() - begin)

    def check(self, stack, workers):
        """Check that each accepted task was done; return the row's texts."""
        done = Counter()

        def count():
            done.clear()
            for worker in workers:
                done.update(re.findall(r"send_notification\[(\S+?)\] succeeded", stack.log(worker)))
            return all(done[task_id] for task_id in self.accepted)

        wait_until(count, 90, "not every accepted task was done")
        twice = sum(1 for task_id in self.accepted if done[task_id] > 1)
        saw = (
            f"202 {len(self.accepted)} times, 503 {self.refused} times, the slowest after "
            f"{self.slowest:.1f} s; /health/live within {self.slowest_live * 1000:.0f} ms"
        )
        assert self.slowest < 3
        return saw, f"each accepted task at least once, {twice} of {len(self.accepted)} twice"


@fault("kill -9 of a pool process in mid-task", **QUICK)
def pool_process_killed(stack):
    stack.start_worker()
    result = stack.queue("nap", "a", 2)
    stack.started("a")
    os.kill(pid_of(stack, "a"), signal.SIGKILL)
    begin = time.monotonic()
    assert result.get(timeout=30) == "a"
    assert stack.runs() == {"a": 2}
    assert stack.runs("end") == {"a": 1}
    settled(stack)
    return "SUCCESS", f"twice; the second run ended {time.monotonic() - begin:.0f} s after the kill"


@fault("kill -9 of a whole worker in mid-task, default settings")
def worker_killed(stack):
    stack.start_worker("one")
    result = stack.queue("nap", "a", 20)
    stack.queue("nap", "b", 600)
    stack.started("a")
    stack.started("b")
    stack.start_worker("two", CELERY_WORKER_CONCURRENCY="3")
    long = stack.queue("nap", "long", 75)  # taken by the other: this one is full
    stack.started("long")
    begin = time.monotonic()
    stack.kill("one")
    stack.started("b", 2, 60)
    seconds = time.monotonic() - begin
    assert result.get(timeout=30) == "a"
    assert seconds < 60
    assert long.get(timeout=90) == "long"
    assert stack.runs()["long"] == 1
    return "STARTED, then the result", f"again {seconds:.0f} s after the kill"


@fault("a task longer than the time after which a worker counts as lost", **QUICK)
def long_task(stack):
    stack.start_worker("one")
    stack.start_worker("two", "--pool=solo")
    results = [stack.queue("nap", key, 30) for key in ("a", "b", "c")]
    assert [result.get(timeout=60) for result in results] == ["a", "b", "c"]
    assert stack.runs() == {"a": 1, "b": 1, "c": 1}
    settled(stack)
    return "SUCCESS", "once each: its worker lives (prefork and solo)"


@fault("kill -9 of a whole worker under load, 5 times", **QUICK)
def killed_under_load(stack):
    keys = [f"k{number}" for number in range(2000)]
    for key in keys:
        stack.queue("nap", key)
    for number in range(5):
        before = sum(stack.runs("end").values())
        stack.start_worker(f"w{number}")
        enough = before + 100 + 37 * number
        wait_until(lambda enough=enough: sum(stack.runs("end").values()) > enough)
        stack.kill(f"w{number}")
    stack.start_worker("last")
    wait_until(lambda: len(stack.runs("end")) == len(keys), 90, "tasks were lost")
    settled(stack)
    twice = sum(1 for times in stack.runs("end").values() if times > 1)
    assert twice <= 5 * 2
    return (
        f"{len(keys)} accepted",
        f"{len(keys)} done, 0 lost, {twice} twice (killed before the end)",
    )


@fault("done, but its worker is killed before it is acknowledged", **QUICK)
def not_acknowledged(stack):
    stack.start_worker("one")
    result = stack.queue("effect", "a", 1)
    stack.started("a")
    stack.signal("one", signal.SIGSTOP)  # the main process only: the pool goes on
    stack.ended("a")
    assert result.get(timeout=10) == "a"
    stack.kill("one")
    assert stack.unacknowledged() == 1
    stack.start_worker("two")
    settled(stack, 60)
    assert stack.runs("end") == {"a": 1}
    return "SUCCESS", "delivered twice, its effect once"


@fault("SIGTERM in mid-task", **QUICK)
def sigterm(stack):
    stack.start_worker("one")
    short, long = stack.queue("nap", "short", 4), stack.queue("nap", "long", 20)
    stack.started("short")
    stack.started("long")
    begin = time.monotonic()
    assert stack.stop("one") == 0
    seconds = time.monotonic() - begin
    assert stack.broker.llen("celery") == 1
    stack.start_worker("two")
    assert short.get(timeout=30) == "short"
    assert long.get(timeout=60) == "long"
    assert stack.runs() == {"short": 1, "long": 2}
    assert stack.runs("end") == {"short": 1, "long": 1}
    return (
        "SUCCESS",
        f"4 s task: once, to its end; 20 s task: handed back at once, ended by the next worker; "
        f"exit code 0 after {seconds:.0f} s",
    )


@fault("Redis stopped for 20 s under load", **QUICK)
def redis_stopped(stack):
    stack.migrate()
    api = stack.start_api()
    stack.start_worker()
    running = stack.queue("nap", "running", 8)  # ends while Redis is away
    stack.started("running")
    with Load(api) as load:
        wait_until(lambda: len(load.accepted) > 20)
        stack.signal("redis", signal.SIGTERM)
        stack.processes.pop("redis").wait()
        time.sleep(20)
        stack.start_redis()
        count = len(load.accepted)
        wait_until(lambda: len(load.accepted) > count + 20)
    saw, ran = load.check(stack, ["worker"])
    assert running.get(timeout=30) == "running"
    settled(stack)
    assert stack.runs() == {"running": 1}
    works(stack)
    return saw, f"{ran}; a task that ended meanwhile: once, SUCCESS"


@fault("Redis restarted under load", **QUICK)
def redis_restarted(stack):
    stack.migrate()
    api = stack.start_api()
    stack.start_worker()
    running = stack.queue("nap", "running", 20)
    stack.started("running")
    with Load(api) as load:
        wait_until(lambda: len(load.accepted) > 20)
        stack.kill("redis")
        stack.start_redis()
        count = len(load.accepted)
        wait_until(lambda: len(load.accepted) > count + 20)
    saw, ran = load.check(stack, ["worker"])
    assert running.get(timeout=40) == "running"
    settled(stack)
    assert stack.runs() == {"running": 1}
    works(stack)
    return saw, f"{ran}; a task that ran across it: once"


@fault("Redis frozen (SIGSTOP) for 40 s under load, default settings")
def redis_frozen(stack):
    stack.migrate()
    api = stack.start_api()
    stack.start_worker("one")
    stack.start_worker("two")
    running = stack.queue("nap", "running", 100)
    stack.started("running")
    with Load(api) as load:
        wait_until(lambda: len(load.accepted) > 20)
        stack.signal("redis", signal.SIGSTOP)
        time.sleep(40)
        stack.signal("redis", signal.SIGCONT)
        count = len(load.accepted)
        wait_until(lambda: len(load.accepted) > count + 20, 60)
    saw, ran = load.check(stack, ["one", "two"])
    assert running.get(timeout=120) == "running"
    assert stack.runs() == {"running": 1}
    settled(stack, 60)
    works(stack)
    return saw, f"{ran}; a task that ran across it: once"


@fault("Redis filled to maxmemory", **QUICK)
def redis_full(stack):
    stack.migrate()
    api = stack.start_api()
    stack.start_worker()
    running = stack.queue("nap", "running", 3)  # ends while Redis is full
    stack.started("running")
    with Load(api) as load:
        wait_until(lambda: len(load.accepted) > 20)
        stack.redis.config_set("maxmemory", 1)
        wait_until(lambda: load.refused > 20)
        stack.ended("running")
        time.sleep(3)
        stack.redis.config_set("maxmemory", 0)
        count = len(load.accepted)
        wait_until(lambda: len(load.accepted) > count + 20)
    saw, ran = load.check(stack, ["worker"])
    assert running.get(timeout=30) == "running"
    settled(stack)
    assert stack.runs() == {"running": 1}
    works(stack)
    return saw, f"{ran}; a task that ended meanwhile: once, SUCCESS"


@fault("the database stopped", database="postgresql", **QUICK)
def database_stopped(stack):
    api = stack.start_api()
    stack.start_worker()
    assert stack.queue("with_database", "before").get(timeout=20) == "before"
    stack.postgres.stop()
    result = stack.queue("with_database", "a")
    begin = time.monotonic()
    assert api.get("/users/me").status_code == 503
    me = time.monotonic() - begin
    ready = api.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["dependencies"]["database"] == "down"
    wait_until(lambda: result.state == "RETRY", message="no retry")
    stack.postgres.start()
    assert result.get(timeout=40) == "a"
    assert api.get("/users/me").status_code == 200
    return f"503 after {me:.1f} s; then 200", "retried until it was back, then once"


@fault("the database hung (SIGSTOP)", database="postgresql", DATABASE_TIMEOUT="3", **QUICK)
def database_hung(stack):
    api = stack.start_api()
    stack.start_worker()
    assert stack.queue("with_database", "before").get(timeout=20) == "before"
    assert api.get("/users/me").status_code == 200
    stack.postgres.signal(signal.SIGSTOP)
    result = stack.queue("with_database", "a")
    begin = time.monotonic()
    with ThreadPoolExecutor(60) as threads:
        answers = [threads.submit(api.get, "/users/me") for _ in range(60)]
        ready_begin = time.monotonic()
        assert api.get("/health/ready").status_code == 503
        ready = time.monotonic() - ready_begin
        assert api.post("/notify", params={"user_id": 1, "message": "x"}).status_code == 202
        assert {answer.result().status_code for answer in answers} == {503}
    me = time.monotonic() - begin
    wait_until(lambda: result.state == "RETRY", message="no retry")
    stack.postgres.signal(signal.SIGCONT)
    assert result.get(timeout=40) == "a"
    assert api.get("/users/me").status_code == 200
    assert ready < 2
    return (
        f"60 requests at once: 503, the last after {me:.0f} s; /health/ready 503 after "
        f"{ready:.1f} s; /notify 202; then 200",
        "retried until it was back, then once",
    )


@fault("past the soft and the hard time limit", **QUICK)
def time_limits(stack):
    limits = {"CELERY_TASK_SOFT_TIME_LIMIT": "2", "CELERY_TASK_TIME_LIMIT": "4"}
    stack.start_worker(**limits)
    soft, hard = stack.queue("nap", "soft", 60), stack.queue("stubborn", "hard")
    assert type(soft.get(timeout=20, propagate=False)).__name__ == "SoftTimeLimitExceeded"
    assert type(hard.get(timeout=20, propagate=False)).__name__ == "TimeLimitExceeded"
    works(stack)
    settled(stack)
    assert stack.runs() == {"soft": 1, "hard": 1, "afterwards": 1}
    return "FAILURE: SoftTimeLimitExceeded, TimeLimitExceeded", "once each, ended at the limit"


@fault("poison messages", **QUICK)
def poison(stack):
    stack.start_worker()
    stack.broker.lpush("celery", "no message", b"\xff\xfe", "[]", '{"properties": {}}')
    unknown = stack.client.send_task("app.tasks.faults.unknown", ("a",))
    arguments = stack.queue("nap", "a", "b", "c", "d")
    stack.client.send_task("app.tasks.faults.nap", ("pickled",), serializer="pickle")
    killer = stack.queue("suicide", "killer")
    assert type(unknown.get(timeout=20, propagate=False)).__name__ == "NotRegistered"
    assert type(arguments.get(timeout=20, propagate=False)).__name__ == "TypeError"
    error = killer.get(timeout=60, propagate=False)
    assert "given up" in str(error), error
    works(stack)
    settled(stack)
    assert stack.runs()["pickled"] == 0
    times = stack.runs()["killer"]
    return (
        "FAILURE: NotRegistered, TypeError, given up",
        f"no message, pickled, unknown: dropped with a log line; kills its process: {times} times, "
        "then given up",
    )


@fault("results and errors that are no JSON", **QUICK)
def no_json(stack):
    stack.start_worker()
    result = stack.queue("not_json", "a").get(timeout=20, propagate=False)
    assert "not JSON serializable" in str(result)
    error = stack.queue("odd_error", "b").get(timeout=20, propagate=False)
    assert "OddError('odd object'" in str(error)
    works(stack)
    return "FAILURE with type and message", "once each"


@fault("a worker whose clock is a day ahead", **QUICK)
def clock_jump(stack):
    stack.start_worker("one")
    result = stack.queue("nap", "a", 25)
    stack.started("a")
    folder = stack.folder / "clock"
    folder.mkdir()
    ahead = "import time\nnow = time.time\ntime.time = lambda: now() + 24 * 60 * 60\n"
    (folder / "sitecustomize.py").write_text(ahead)
    stack.start_worker("two", PYTHONPATH=str(folder))
    stack.queue("nap", "b").get(timeout=20)
    assert result.get(timeout=40) == "a"
    assert stack.runs() == {"a": 1, "b": 1}
    settled(stack)
    return "SUCCESS", "once: the messages' age is told by Redis"


@fault("two beats; one killed; both restarted", **QUICK)
def two_beats(stack):
    stack.start_worker()
    schedule = {"BEAT_EVERY": "3"}

    def ticks():
        return stack.runs()["tick"]

    stack.start_beat("one", **schedule)
    wait_until(lambda: ticks() >= 1, message="beat sent nothing")
    stack.start_beat("two", **schedule)
    begin, first = time.monotonic(), ticks()
    wait_until(lambda: ticks() >= first + 4, message="the schedule stands still")
    seconds = time.monotonic() - begin
    assert seconds > 3 * 3, "doubled"
    stack.kill("one")
    before = ticks()
    begin = time.monotonic()
    wait_until(lambda: ticks() > before, 60, "the second beat did not take over")
    taken_over = time.monotonic() - begin
    stack.stop("two")
    before = ticks()
    time.sleep(7)  # two runs are missed
    stack.start_beat("three", **schedule)
    wait_until(lambda: ticks() > before, 60, "a missed run was not made up for")
    begin = time.monotonic()
    wait_until(lambda: ticks() > before + 2, 30)
    assert time.monotonic() - begin > 3, "a missed run was made up for twice"
    return (
        "",
        f"each due run once; the second beat took over {taken_over:.0f} s after the kill; runs "
        "missed while beat was down: one, at once",
    )


@fault("a task revoked while no worker runs", **QUICK)
def revoked(stack):
    stack.migrate()
    api = stack.start_api()
    answer = api.post("/notify", params={"user_id": 1, "message": "x"})
    task_id = answer.json()["task_id"]
    assert api.delete(f"/task/{task_id}").json()["status"] == "REVOKED"
    stack.start_worker()
    works(stack)
    settled(stack)
    assert api.get(f"/task/{task_id}").json()["status"] == "REVOKED"
    assert "notification sent" not in stack.log("worker")
    return "REVOKED", "never"


@fault("a request's id through the queue", ENVIRONMENT="production", C_FORCE_ROOT="true", **QUICK)
def request_id(stack):
    stack.migrate()
    api = stack.start_api()
    stack.start_worker()
    request = "4f0f7aeb3b2f4e429c400f6a1a1a1a1a"
    answer = api.post(
        "/notify",
        params={"user_id": 1, "message": "hunter2"},
        headers={"X-Request-ID": request},
    )
    assert answer.headers["X-Request-ID"] == request
    stack.queue("family", "f", 2, headers={"request_id": "0123"})
    stack.queue("try_twice", "t", headers={"request_id": "4567"})
    failed = stack.queue("secret", "s", "hunter2")
    failed.get(timeout=20, propagate=False)
    stack.ended("f", 3)
    stack.ended("t")

    def lines(text):
        logs = [line for line in stack.log("worker").splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, logs) if line["event"] == text]

    wait_until(lambda: lines("notification sent"))
    assert [line["request_id"] for line in lines("notification sent")] == [request]
    assert [line["request_id"] for line in lines("family")] == ["0123"] * 3
    assert [line["request_id"] for line in lines("try_twice")] == ["4567"] * 2
    assert "hunter2" not in stack.log("worker") + stack.log("api")
    return "its X-Request-ID", "in the logs of the task, its retry, its child and grandchild"


def run(title, project):
    """Run a fault; return its row."""
    function, database, environment = FAULTS[title]
    with tempfile.TemporaryDirectory(prefix="forge-") as folder:
        stack = Stack(project(database), folder, **environment)
        if database == "postgresql":
            stack.postgres = Postgres(stack)
        with stack:
            if database == "postgresql":
                stack.postgres.start()
                stack.migrate()
            try:
                saw, ran = function(stack)
            except BaseException as error:
                for name in sorted(Path(folder).glob("*.log")):
                    tail = name.read_text(errors="replace")[-3000:]
                    error.add_note(f"--- {name.name}\n{tail}")
                raise
    return title, saw, ran


class Run:
    """All faults, side by side."""

    def __init__(self, titles=tuple(FAULTS), at_once=5):
        self._folder = tempfile.TemporaryDirectory(prefix="forge-")
        self._projects = {}
        for database in {FAULTS[title][1] for title in titles}:
            self._projects[database] = bake(Path(self._folder.name), database)
        self._threads = ThreadPoolExecutor(at_once)
        # The longest first.
        slow = ("frozen", "default settings", "stopped for", "beats")
        titles = sorted(titles, key=lambda title: not any(word in title for word in slow))
        self.rows = {
            title: self._threads.submit(run, title, self._projects.__getitem__) for title in titles
        }

    def close(self):
        self._threads.shutdown(cancel_futures=True)
        self._folder.cleanup()


@pytest.fixture(scope="module")
def all_faults(request):
    titles = [item.callspec.params["title"] for item in request.session.items if is_fault(item)]
    faults = Run(titles)
    yield faults
    faults.close()


def is_fault(item):
    """Return whether a collected test is one of this module's rows."""
    return item.module.__name__ == __name__ and "title" in getattr(item, "callspec", item).params


@pytest.mark.parametrize("title", FAULTS)
def test_fault(title, all_faults):
    all_faults.rows[title].result()


def main(titles):
    """Print the table, and write it into the benchmarks' README when it is whole."""
    faults = Run(titles or tuple(FAULTS))
    lines = ["| fault | the client saw | what ran, and how often |", "|---|---|---|"]
    failed = 0
    for title in titles or FAULTS:
        try:
            lines.append(f"| {' | '.join(faults.rows[title].result())} |")
            print(lines[-1], flush=True)
        except Exception as error:
            failed += 1
            print(f"FAILED: {title}", flush=True)
            traceback.print_exception(error)
    faults.close()
    if not titles and not failed:
        write("faults", "\n".join(lines))
    return failed


if __name__ == "__main__":
    sys.exit(main([title for title in FAULTS if any(word in title for word in sys.argv[1:])]))
