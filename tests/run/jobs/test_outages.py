"""Redis or the database is away, while jobs are queued, begin, run and end."""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import pytest

from tests.harness import FULL, wait_until
from tests.run.jobs.faults import Faults, clients, frozen_redis, without_redis

SECONDS = 30 if FULL else 8


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


def test_database_is_away_when_jobs_end_and_begin(stack: Faults) -> None:
    stack.start_worker(DATABASE_TIMEOUT="1")
    stack.start_beat(DATABASE_TIMEOUT="1")
    jobs = [stack.add("hold", key=key) for key in ("a", "b")]
    stack.started("a")
    stack.started("b")
    wait_until(lambda: all(stack.row(job)["status"] == "STARTED" for job in jobs))
    jobs += [stack.add("nap", key=key) for key in ("c", "d")]
    with database_away(stack):
        stack.release("a")
        stack.release("b")
        wait_until(lambda: "the outcome waits" in stack.log("worker"))
        wait_until(lambda: "trying again" in stack.log("beat"))
    for job in jobs:
        stack.ends(job, seconds=90)
    assert stack.runs("end") == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_refused_statement_is_no_outage(stack: Faults) -> None:
    """A task whose query names a column that does not exist fails at once."""
    stack.start_worker()
    stack.start_beat()
    row = stack.ends(stack.add("wrong_column", key="a"), "FAILURE")
    assert row["attempts"] == 1
    assert "missing" in row["result"]


@pytest.mark.parametrize("outage", [without_redis, frozen_redis])
def test_redis_is_away_under_load(
    stack: Faults, outage: Callable[[Faults], AbstractContextManager[None]]
) -> None:
    api = stack.start_api()
    stack.start_beat()
    with stack.supervised("worker"):
        with clients(api, 4) as answers:
            wait_until(lambda: len(answers) >= 100)
            with outage(stack):
                begin = len(answers)
                time.sleep(SECONDS)
                end = len(answers)
            wait_until(lambda: len(answers) >= end + 50)
        assert end - begin > 20, answers[begin:]
        codes = Counter(code for code, _, _ in answers)
        assert codes == {202: len(answers)}, codes
        ids = {job for _, _, job in answers}
        stack.all_succeed(len(answers), 240)
    assert stack.runs("end").keys() == ids
    assert set(stack.runs("end").values()) == {1}
    # Generous, since the machine is busy. Who waits for Redis waits longer.
    assert max(seconds for _, seconds, _ in answers[begin:end]) < 4


def test_redis_is_restarted_under_running_jobs(stack: Faults) -> None:
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
        stack.all_succeed(52)
