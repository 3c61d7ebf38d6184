"""Workers that are killed, stopped or frozen, and messages that are lost or repeated."""

import signal
import socket
import time

from tests.harness import FULL, log_in, wait_until
from tests.run.jobs.faults import Faults

KILLS, JOBS = (25, 3_000) if FULL else (5, 300)
SHORT = {"CELERY_TASK_SOFT_TIME_LIMIT": "4", "CELERY_TASK_TIME_LIMIT": "5"}


def test_no_job_is_lost_when_the_whole_worker_is_killed_often(stack: Faults) -> None:
    stack.start_beat()
    each = JOBS // KILLS
    with stack.supervised("worker"):
        for number in range(KILLS):
            first, last = number * each, (number + 1) * each
            stack.ask(f"naps(['k%d' % n for n in range({first}, {last})], 0.02)")
            half = (first + last) / 2
            wait_until(lambda half=half: len(stack.runs("end")) > half, 120)
            stack.kill_group("worker")
        stack.all_succeed(JOBS, 300)
    begun, done = stack.runs("start"), stack.runs("end")
    assert len(done) == JOBS
    interrupted = sum(1 for key in begun if begun[key] > done[key])
    twice = sum(1 for key in done if done[key] > 1)
    print(f"0 of {JOBS} lost, {interrupted} were interrupted and run again, {twice} ran twice")
    assert interrupted + twice <= 4 * KILLS


def test_worker_of_the_same_name_puts_its_jobs_back(stack: Faults) -> None:
    stack.start_worker()
    jobs = [stack.add("hold", key="a"), stack.add("progress", key="p")]
    stack.started("a")
    stack.started("p")
    wait_until(lambda: stack.row(jobs[1])["result"] == {"done": 3})
    assert stack.row(jobs[1])["status"] == "PROGRESS"
    stack.kill("worker")
    stack.start_worker()
    ready = time.monotonic()
    stack.started("a", 2)
    stack.started("p", 2)
    assert time.monotonic() - ready < 15
    stack.release("a")
    stack.release("p")
    for job in jobs:
        row = stack.ends(job)
        assert (row["attempts"], row["lost"]) == (2, 1)


def test_lost_worker_is_replaced_after_the_time_limit(stack: Faults) -> None:
    """Killed and not started again; and frozen, so that it comes back in the middle of the job."""
    stack.start_worker("killed", **SHORT)
    first = stack.add("nap", key="a", seconds=3)
    stack.started("a")
    stack.kill("killed")
    stack.start_worker("frozen", **SHORT)
    second = stack.add("hold", key="b")
    stack.started("b")
    stack.send_signal("frozen", signal.SIGSTOP, family=True)
    stack.start_beat(**SHORT)
    for job in (first, second):
        wait_until(lambda job=job: stack.row(job)["lost"] == 1, 90)
    stack.start_worker("other")
    stack.started("b", 2)
    stack.send_signal("frozen", signal.SIGCONT, family=True)
    stack.wait_for_log("frozen", "outcome not recorded", 90)
    stack.release("b")
    for job in (first, second):
        assert stack.ends(job)["attempts"] == 2


def test_sigterm_finishes_or_hands_back(stack: Faults) -> None:
    stack.start_worker("one")
    short, long = stack.add("nap", key="short", seconds=5), stack.add("hold", key="long")
    stack.started("short")
    stack.started("long")
    stack.stop("one", seconds=90)
    row = stack.row(long)
    assert (row["status"], row["lost"]) == ("PENDING", 0), row
    stack.release("long")
    stack.start_worker("two")
    stack.ends(short)
    row = stack.ends(long)
    assert (row["attempts"], row["lost"]) == (2, 0), row
    assert stack.runs() == {"short": 1, "long": 2}
    # A warm shutdown waits for all of them.
    stack.start_worker("three", REMAP_SIGTERM="")
    stack.stop("two")
    job = stack.add("nap", key="warm", seconds=5)
    stack.started("warm")
    assert stack.stop("three") == 0
    assert stack.row(job)["status"] == "SUCCESS"


def test_message_that_arrives_again_runs_nothing(stack: Faults) -> None:
    stack.start_worker()
    job = stack.add("hold", key="a")
    stack.started("a")
    stack.ask(f"[again({job!r}) for _ in range(3)] and None")
    stack.release("a")
    stack.ends(job)
    stack.ask(f"again({job!r}, 0)")
    stack.ask(f"again({job!r}, 1)")
    stack.works()
    stack.stop("worker")
    cancelled = stack.add("nap", key="b")
    stack.published(1)
    assert stack.ask(f"cancel({cancelled!r})") == "REVOKED"
    stack.start_worker()
    stack.works()
    assert stack.row(cancelled)["status"] == "REVOKED"
    assert stack.row(job)["attempts"] == 1
    assert stack.runs() == {"a": 1, "works": 2}


def test_flushed_messages_are_sent_again(stack: Faults) -> None:
    stack.ask("naps(['k%d' % n for n in range(200)])")
    stack.published(200)
    stack.redis.flushall()
    stack.start_worker()
    stack.start_beat()
    stack.all_succeed(200)
    assert set(stack.runs().values()) == {1}


def test_messages_of_a_long_queue_are_not_sent_again(stack: Faults) -> None:
    stack.ask("naps(['k%d' % n for n in range(120)], 0.3)")
    stack.published(120)
    stack.start_beat()
    stack.start_worker()
    wait_until(lambda: len(stack.runs()) >= 90, 90)
    assert stack.broker.llen(stack.queue) <= 30, "messages were sent twice"
    stack.all_succeed(120)
    assert set(stack.runs().values()) == {1}


def test_api_is_killed_between_commit_and_publish(stack: Faults) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects and never answers
        broker = f"redis://127.0.0.1:{silent.getsockname()[1]}/1"
        api = log_in(stack.start_api(CELERY_BROKER_URL=broker))
        answer = api.post("/notify", params={"user_id": 1, "message": "x"})
        assert answer.status_code == 202
        stack.kill("api")
    stack.start_worker()
    stack.start_beat()
    assert stack.ends(answer.json()["task_id"])["attempts"] == 1


def test_messages_carry_neither_arguments_nor_results(stack: Faults) -> None:
    secret = "x" * 100_000
    job = stack.add("nap", key=secret)
    stack.published(1)
    assert len(stack.broker.lindex(stack.queue, 0)) < 3_000
    stack.broker.delete(stack.queue)
    stack.start_worker()
    stack.ask(f"again({job!r})")
    assert stack.ends(job)["result"] == secret
    # Celery logs up to 1024 characters of a result, and nothing of the arguments.
    assert secret[:2000] not in stack.log("worker")
    for number in (1, 2):
        stack.redis.select(number)
        assert not list(stack.redis.scan_iter("*celery-task-meta*"))
    stack.redis.select(0)
