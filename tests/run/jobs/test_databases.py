"""What depends on the database: unique keys, locks, and when a message is sent again."""

import json

import pytest

from tests.run.jobs.conftest import on
from tests.run.jobs.faults import Faults

pytestmark = pytest.mark.parametrize("servers", on("postgresql", "mysql", "sqlite"), indirect=True)

# Races of threads, each with connections of its own. All begin each round together.
RACE = """
import json, sys
from threading import Barrier, Thread
from app.core.celery import celery_app
from app.core.database import session_scope
from app.jobs import cancel_job, enqueue
from app.jobs.scheduler import dispatch
from app.tasks.fault_tasks import nap
from sqlalchemy.exc import OperationalError

how, count, rounds = sys.argv[1], *map(int, sys.argv[2:])
results = [[None] * count for _ in range(rounds)]
barrier = Barrier(count)

def run(me, number):
    if how == "claim":
        nap.push_request(id=f"job-{number}", job_round=0, hostname=str(me))
        claimed = nap._claim()
        nap.pop_request()
        return claimed
    if how == "dispatch":
        return dispatch(celery_app)
    with session_scope() as session:
        key = how if how == "finished" else f"{how}:{number}"
        job = enqueue(session, nap, unique=key, countdown=3600, key="x")
        if how == "finished" and me == 0:  # The holder of the key ends meanwhile.
            cancel_job(session, job.id)
        return job.id

def race(me):
    for number in range(rounds):
        barrier.wait()
        while results[number][me] is None:
            try:
                results[number][me] = run(me, number)
            except OperationalError as error:
                # MariaDB ends one of two transactions that wait for each other, and its savepoint
                # with it: it is repeated.
                if error.orig.args[0] not in (1213, 1305):
                    barrier.abort()
                    raise

threads = [Thread(target=race, args=(me,)) for me in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(results))
"""


def race(stack: Faults, how: str, count: int = 8, rounds: int = 10) -> list[list[object]]:
    """Let threads do the same at the same time; return what each got, by round."""
    output = stack.python(RACE, how, str(count), str(rounds))
    results: list[list[object]] = json.loads(output.splitlines()[-1])
    assert not any(None in each for each in results), results
    return results


def test_unique_job_is_queued_once(stack: Faults) -> None:
    for ids in race(stack, "unique"):
        assert len(set(ids)) == 1, ids
    assert stack.ask("count()") == {"PENDING": 10}


def test_key_of_a_finished_job_is_free(stack: Faults) -> None:
    race(stack, "finished")
    rows = stack.ask("rows()")
    assert all(row["unique_key"] is None for row in rows if row["status"] == "REVOKED")
    assert sum(row["unique_key"] is not None for row in rows) <= 1


def test_attempt_is_claimed_once(stack: Faults) -> None:
    for number in range(10):
        stack.ask(
            "names.update(job=enqueue(session, nap, countdown=60, key='x')) or "
            f"setattr(job, 'id', 'job-{number}') or session.commit()"
        )
    for claims in race(stack, "claim"):
        assert claims.count(True) == 1, claims


def test_two_dispatchers_publish_each_job_once(stack: Faults) -> None:
    stack.ask("naps(['k%d' % n for n in range(500)], 0, 0.1)")  # Due when the race begins.
    race(stack, "dispatch", count=2, rounds=2)
    assert stack.broker.llen(stack.queue) == 500


def test_backlog_is_sent_in_batches_so_that_the_schedule_goes_on(stack: Faults) -> None:
    stack.ask("naps(['k%d' % n for n in range(450)], 0, 0.1)")
    assert stack.ask("dispatch(celery_app)") == 200
    tick = "JobScheduler(celery_app, lazy=True).tick()"
    assert [stack.ask(tick) for _ in range(2)] == [0, 2]  # Seconds until beat looks again.
    assert stack.broker.llen(stack.queue) == 450


@pytest.mark.parametrize("unique", [None, "key"])
def test_nothing_remains_of_what_is_rolled_back(stack: Faults, unique: str | None) -> None:
    stack.ask(f"enqueue(session, nap, unique={unique!r}, key='x').id")
    stack.ask("session.rollback()")
    assert stack.ask("rows()") == []


@pytest.mark.parametrize("is_empty", [True, False])
def test_messages_grow_with_the_logarithm_of_time(stack: Faults, is_empty: bool) -> None:
    """Whatever a priority, a router or a rate limit does with them: they may wait for a day."""
    job = stack.add("nap", key="a", countdown=3600)
    if not is_empty:
        stack.broker.lpush(stack.queue, "another message")
    sent, last = 0, 0
    for age in [2**n for n in range(1, 18)]:  # Up to a day and a half.
        stack.ask(f"age({job!r}, {age}, {age - last})")
        if stack.ask("dispatch(celery_app)"):
            sent, last = sent + 1, age
            stack.broker.ltrim(stack.queue, 0, -1 if is_empty else 0)
        if is_empty:
            stack.broker.delete(stack.queue)
    assert 4 <= sent <= 15, sent
    # Just after it was sent, it waits as long again.
    stack.ask(f"age({job!r}, 3600, 15)")
    stack.ask("dispatch(celery_app)")
    row = stack.row(job)
    assert row["resend_after"] > row["due_at"]
    assert stack.ask("dispatch(celery_app)") == 0
