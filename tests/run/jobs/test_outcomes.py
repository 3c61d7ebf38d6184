"""How a job ends: results, errors, retries, time limits, crashes, cancellation, Celery's revoke."""

from datetime import datetime
from pathlib import Path

import pytest

from tests.harness import wait_until
from tests.run.jobs.faults import Faults

HOSTILE = {
    "object": "not JSON serializable",
    "nan": "not JSON compliant",
    "odd": "OddError: ('odd object'",
    "silent": "SilentError",
    "base": "GeneratorExit: no",
    "deep": "RecursionError",
    "surrogate": "surrogates not allowed",
    "text": "ValueError: no",
    "large": "more than 1048576 bytes as JSON",
    "long": "ValueError: xxx",
    "ignore": "Ignore",
    "reject": "Reject",
}


def test_job_runs(stack: Faults) -> None:
    stack.start_worker()
    row = stack.ends(stack.add("nap", key="a"))
    assert (row["result"], row["attempts"], row["lost"]) == ("a", 1, 0)


def test_results_and_errors_are_recorded_once(stack: Faults) -> None:
    stack.start_worker()
    jobs = {kind: stack.add("outcome", key=kind, kind=kind) for kind in HOSTILE}
    for kind, text in HOSTILE.items():
        row = stack.ends(jobs[kind], "FAILURE")
        assert text in row["result"], row
        assert len(row["result"]) <= 10_000
        assert row["finished_at"], row
    stack.works()
    assert all(stack.runs()[kind] == 1 for kind in HOSTILE)


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ({"args": [1, 5, 6], "kwargs": {"three": 3}}, [1, [5, 6], 2, {"three": 3}]),
        ({"args": [1], "kwargs": {"one": 7, "two": 8}}, [1, [], 8, {"one": 7}]),
        ({"args": [], "kwargs": {}}, None),
    ],
)
def test_arguments_are_bound_as_celery_calls(
    stack: Faults, arguments: dict[str, object], result: object
) -> None:
    call = f"new_job(bound, {arguments['args']!r}, {arguments['kwargs']!r})"
    if result is None:
        with pytest.raises(AssertionError, match="missing a required argument"):
            stack.ask(call)
        return
    job = stack.ask(f"names.update(job={call}) or session.add(job) or session.commit() or job.id")
    stack.start_worker()
    stack.start_beat()
    assert stack.ends(job)["result"] == result


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("replace", "a job cannot be replaced"),
        ("throw", "does not take throw"),
        ("queue", "does not take queue"),
    ],
)
def test_job_refuses_what_its_row_does_not_hold(stack: Faults, how: str, error: str) -> None:
    stack.start_worker()
    row = stack.ends(stack.add("refused", key=how, how=how), "FAILURE")
    assert error in row["result"]
    assert stack.runs()["replaced"] == 0


def test_retries(stack: Faults) -> None:
    stack.start_worker()
    stack.start_beat()
    row = stack.ends(stack.add("fail", key="a", failures=2))
    assert (row["result"], row["attempts"], row["lost"]) == (2, 3, 0), row
    row = stack.ends(stack.add("fail", key="b", failures=9), "FAILURE")
    assert row["attempts"] == 3
    # A retry by hand begins anew.
    stack.ask(f"retry({row['id']!r})")
    wait_until(lambda: stack.row(row["id"])["attempts"] == 6)
    stack.ends(row["id"], "FAILURE")


def test_retry_at_a_time_of_another_time_zone(stack: Faults) -> None:
    stack.start_worker()
    job = stack.add("retry_in_new_york", key="a")
    wait_until(lambda: stack.row(job)["status"] == "RETRY")
    row = stack.row(job)
    due, begun = (datetime.fromisoformat(row[name]) for name in ("due_at", "started_at"))
    assert 55 < (due - begun).total_seconds() < 90, row


def test_crashes_are_counted(stack: Faults) -> None:
    stack.start_worker(JOB_MAX_ATTEMPTS="3")
    once = stack.add("crash", key="a", times=1)
    always, leaves = stack.add("crash", key="b"), stack.add("leave", key="c")
    row = stack.ends(once)
    assert (row["lost"], row["attempts"]) == (1, 2)
    for job in (always, leaves):
        assert "lost 3 times" in stack.ends(job, "FAILURE")["result"]
    assert stack.runs() == {"a": 2, "b": 3, "c": 3}
    stack.works()


def test_time_limits(stack: Faults) -> None:
    stack.start_worker(CELERY_TASK_SOFT_TIME_LIMIT="5", CELERY_TASK_TIME_LIMIT="9")
    soft = stack.add("nap", key="soft", seconds=60)
    hard = stack.add("stubborn", key="hard", seconds=60)
    assert "SoftTimeLimitExceeded" in stack.ends(soft, "FAILURE")["result"]
    assert "TimeLimitExceeded" in stack.ends(hard, "FAILURE")["result"]
    stack.works()
    assert stack.runs() == {"soft": 1, "hard": 1, "works": 1}


def test_running_job_is_cancelled_and_retried(stack: Faults) -> None:
    stack.start_worker()
    job = stack.add("parent", key="a", seconds=30)
    pid = stack.started("a")
    stack.started("a-child")  # It was queued with .delay(), and runs on.
    assert stack.ask(f"cancel({job!r})") == "REVOKED"
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 30, "the process was not ended")
    stack.works()
    assert stack.row(job)["status"] == "REVOKED"
    stack.ask(f"change({job!r}, kwargs={{'key': 'a', 'seconds': 0}})")
    stack.ask(f"retry({job!r})")
    stack.ends(job)
    assert stack.runs()["a"] == 2


def test_job_is_cancelled_between_two_attempts(stack: Faults) -> None:
    stack.start_worker()
    stack.start_beat()
    job = stack.add("fail", key="a", failures=1, delay=3)
    wait_until(lambda: stack.row(job)["status"] == "RETRY")
    assert stack.ask(f"cancel({job!r})") == "REVOKED"
    later = stack.add("nap", key="later", countdown=4)
    stack.ends(later)
    assert stack.row(job)["status"] == "REVOKED"
    assert stack.runs("retries-1")["a"] == 0


def test_row_is_told_what_celery_revokes(stack: Faults) -> None:
    stack.start_worker()
    running = stack.add("hold", key="a")
    pid = stack.started("a")
    wait_until(lambda: stack.row(running)["status"] == "STARTED")
    stack.ask(f"celery_app.control.revoke({running!r}, terminate=True)")
    assert "revoked by Celery" in stack.ends(running, "REVOKED")["result"]
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 30, "the process was not ended")
    # One that waits behind others is dropped when the worker takes it.
    for key in ("b", "c"):
        stack.add("hold", key=key)
        stack.started(key)
    waiting = stack.add("nap", key="d")
    stack.ask(f"celery_app.control.revoke({waiting!r})")
    stack.release("b")
    stack.release("c")
    assert "revoked by Celery" in stack.ends(waiting, "REVOKED")["result"]
    stack.works()
    assert stack.runs()["d"] == 0


def test_expired_message_revokes_its_job(stack: Faults) -> None:
    job = stack.ask(
        "names.update(job=run_schedule(session, 'expires')) or session.commit() or job.id"
    )
    stack.ask(f"age({job!r}, 600, 600)")
    stack.ask(f"change({job!r}, resend_after=None)")
    stack.ask("dispatch(celery_app)")
    stack.start_worker("worker", "-Q", "slow")
    assert stack.ends(job, "REVOKED")["result"] == "expired"
    assert stack.runs() == {}


def test_unknown_task_fails_only_its_job(stack: Faults) -> None:
    stack.start_worker(WITHOUT_EXTRA="1")
    stack.start_beat(WITHOUT_EXTRA="1")
    never = stack.add("nap", key="a", countdown=3600)
    stack.ask(f"change({never!r}, task='app.tasks.gone.gone')")
    dropped, deployed = (stack.add("extra", key=key) for key in "bc")
    for job in (never, dropped):
        stack.ask(f"age({job!r}, 3700, 3700)")
    assert "gone.gone" in stack.ends(never, "FAILURE")["result"]
    assert "extra" in stack.ends(dropped, "FAILURE")["result"]
    stack.works()
    stack.stop("worker")
    stack.start_worker("new")  # Its code has come: within an hour, the job has only waited.
    stack.ask(f"age({deployed!r}, 1200, 1200)")
    stack.ends(deployed)


def test_nested_transactions_and_rollbacks(stack: Faults) -> None:
    stack.start_worker()
    outer = stack.ask("enqueue(session, nap, key='outer').id")
    stack.ask("names.update(savepoint=session.begin_nested())")
    inner = stack.ask("enqueue(session, nap, key='inner').id")
    stack.ask("savepoint.commit()")
    stack.ask("names.update(savepoint=session.begin_nested())")
    gone = stack.ask("enqueue(session, nap, key='gone').id")
    stack.ask("savepoint.rollback()")
    stack.ask("session.commit()")
    stack.ends(outer)
    stack.ends(inner)
    assert stack.ask(f"rows({gone!r})") == []
    # A cancellation that is rolled back is not sent with the next commit.
    running = stack.add("hold", key="running")
    stack.started("running")
    wait_until(lambda: stack.row(running)["status"] == "STARTED")
    assert stack.ask(f"cancel_job(session, {running!r}).status") == "REVOKED"
    stack.ask("session.rollback()")
    stack.works()
    stack.release("running")
    stack.ends(running)
    assert stack.runs() == {"outer": 1, "inner": 1, "running": 1, "works": 1}
