"""The schedule on a real beat: each run once, bad entries, queues, clocks, pauses and pings."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.harness import find_program, free_port, wait_until
from tests.run.jobs.faults import Faults

EVERY = {"BEAT_EVERY": "3"}


def ticks(stack: Faults) -> int:
    """Return how often the entry ``tick`` has run."""
    return stack.runs()["tick"]


def wait_for_ticks(stack: Faults, more: int) -> float:
    """Wait for more runs; return the seconds that they took."""
    begin, before = time.monotonic(), ticks(stack)
    wait_until(lambda: ticks(stack) >= before + more, 90, "the schedule stands still")
    return time.monotonic() - begin


def test_two_beats_queue_each_run_once(stack: Faults) -> None:
    stack.start_worker(**EVERY)
    stack.start_beat("one", **EVERY)
    wait_for_ticks(stack, 1)
    stack.start_beat("two", **EVERY)
    stack.wait_for_log("two", "beat: Starting")
    assert wait_for_ticks(stack, 4) > 3 * 3 - 1, "doubled"
    stack.kill("one")
    wait_for_ticks(stack, 1)
    stack.stop("two")
    time.sleep(8)  # Two runs are missed: they are made up for once, at once.
    stack.start_beat("three", **EVERY)
    wait_for_ticks(stack, 1)
    assert wait_for_ticks(stack, 2) > 3, "a missed run was made up for twice"


def test_bad_entries_are_named_and_stop_no_other(stack: Faults) -> None:
    stack.start_worker("worker", "-Q", "celery,slow", **EVERY)
    stack.start_beat(**EVERY)
    wait_for_ticks(stack, 2)
    names = ("bad task", "bad arguments", "bad options", "bad schedule", "bad kwargs")
    lines = [line for line in stack.log("beat").splitlines() if "never runs" in line]
    assert len(lines) == len(names)
    for name in names:
        assert any(name in line for line in lines), name
    rows = stack.ask("rows()")
    assert {row["schedule"] for row in rows} == {"tick", "in slow", "broken"}


def test_entry_runs_in_its_queue(stack: Faults) -> None:
    """Also a task with a queue of its own. A queue without a worker holds up no other."""
    stack.start_worker("default", **EVERY)
    stack.start_beat(**EVERY)
    job = stack.add("slow", key="a")
    wait_for_ticks(stack, 2)
    assert stack.row(job)["status"] == "PENDING"
    stack.start_worker("second", "-Q", "slow", **EVERY)
    stack.ends(job)
    assert stack.runs("second")["a"] == 1
    wait_until(lambda: stack.runs("end")["in-slow"] >= 1)
    workers = {row["worker"].split("@")[0] for row in stack.ask("rows()") if row["worker"]}
    assert workers == {"default", "second"}


def test_clock_of_the_database_counts(stack: Faults) -> None:
    """A worker, then a beat, whose clocks are a day ahead."""
    find_program("faketime", install="apt install faketime")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    ahead = {"LD_PRELOAD": str(library), "FAKETIME": "+1d"} if is_shared(stack) else {}
    stack.start_worker(**EVERY, **ahead)
    stack.start_beat("right", **EVERY)
    later = stack.add("nap", key="later", countdown=3600)
    stack.ends(stack.add("fail", key="a", failures=2, delay=1))
    wait_for_ticks(stack, 1)
    stack.stop("right")
    stack.start_beat("wrong", **EVERY, **ahead)
    assert wait_for_ticks(stack, 3) > 5
    stack.stop("wrong")
    stack.start_beat("again", **EVERY)
    wait_for_ticks(stack, 2)
    assert stack.row(later)["status"] == "PENDING"


def is_shared(stack: Faults) -> bool:
    """Return whether the database has a clock of its own."""
    return stack.answers["database"] != "sqlite"


def test_pause_resume_and_run(stack: Faults) -> None:
    stack.start_worker(**EVERY)
    stack.start_beat(**EVERY)
    wait_for_ticks(stack, 1)
    stack.run("python", "-m", "app.jobs", "schedule", "pause", "tick", **EVERY)
    ended = "all(row['status'] == 'SUCCESS' for row in rows() if row['schedule'] == 'tick')"
    wait_until(lambda: stack.ask(ended))
    before = ticks(stack)
    job = stack.run("python", "-m", "app.jobs", "schedule", "run", "tick", **EVERY).strip()
    stack.ends(job)
    time.sleep(4)
    assert ticks(stack) == before + 1
    stack.run("python", "-m", "app.jobs", "schedule", "resume", "tick", **EVERY)
    wait_for_ticks(stack, 1)
    output = stack.run("python", "-m", "app.jobs", "schedule", "list", **EVERY)
    assert "paused" not in output
    assert any("tick" in line and "None" not in line for line in output.splitlines())


@contextmanager
def receiver(port: int, hang: float = 0) -> Iterator[list[tuple[str, str]]]:
    """Receive pings; the list gets their paths and bodies."""
    received: list[tuple[str, str]] = []
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received.append((self.path, body))
            stop.wait(hang)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_pings(stack: Faults) -> None:
    """Success, failure, receiver away, receiver that hangs: the schedule goes on."""
    port = free_port()
    ping = EVERY | {"SCHEDULE_PING_URL": f"http://127.0.0.1:{port}/key/"}
    stack.start_worker("worker", "-Q", "celery,slow", **ping)
    stack.start_beat(**ping)
    with receiver(port) as received:
        wait_until(lambda: {"/key/tick", "/key/in%20slow"} <= {path for path, _ in received})
        wait_until(lambda: any(path == "/key/broken/fail" for path, _ in received))
        assert ("/key/broken/fail", "OSError: disk full é ?") in received
        assert ("/key/tick", "") in received
        assert "/key/tick/fail" not in {path for path, _ in received}
    wait_until(lambda: "could not be reported" in stack.log("worker"))
    wait_for_ticks(stack, 2)
    with receiver(port, hang=600) as received:
        wait_until(lambda: received)
        wait_for_ticks(stack, 3)
        begin = time.monotonic()
        stack.works()
        assert time.monotonic() - begin < 10
        stack.stop("worker", seconds=90)
