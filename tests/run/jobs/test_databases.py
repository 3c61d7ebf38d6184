"""What depends on the database: unique keys, locks, and when a message is sent again."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import project_environment
from tests.run.jobs.conftest import on
from tests.run.jobs.faults import Faults

pytestmark = pytest.mark.parametrize("servers", on("postgresql", "mysql", "sqlite"), indirect=True)

# Races: all processes begin each round together. Each prints what it got in every round.
RACE = """
import json, sys, time
from pathlib import Path
from app.core.celery import celery_app
from app.core.database import session_scope
from app.jobs import cancel_job, enqueue
from app.jobs.scheduler import dispatch
from app.jobs.task import JobTask
from app.tasks.fault_tasks import nap

folder, how, me, count, rounds = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
results = []
for number in range(rounds):
    (folder / f"{how}-{number}-{me}").touch()
    while len(list(folder.glob(f"{how}-{number}-*"))) < count:
        time.sleep(0.001)
    if how == "unique":
        with session_scope() as session:
            job = enqueue(session, nap, unique=f"{how}:{number}", countdown=3600, key="x")
            results.append(job.id)
    elif how == "finished":  # The holder of the key is cancelled meanwhile.
        with session_scope() as session:
            job = enqueue(session, nap, unique=how, countdown=3600, key="x")
            if me == 0:
                cancel_job(session, job.id)
            results.append(job.id)
    elif how == "claim":
        nap.push_request(id=f"job-{number}", job_round=0, hostname=str(me))
        results.append(nap._claim())
        nap.pop_request()
    elif how == "dispatch":
        results.append(dispatch(celery_app))
print(json.dumps(results))
"""


def race(stack: Faults, how: str, count: int = 6, rounds: int = 10) -> list[list[object]]:
    """Run the processes and return what each got, by round."""
    python = stack.project / ".venv/bin/python"
    env = project_environment(stack.project, **stack.environment)
    with ExitStack() as processes:
        runs = [
            processes.enter_context(
                subprocess.Popen(
                    [python, "-c", RACE, stack.folder, how, str(me), str(count), str(rounds)],
                    cwd=stack.project,
                    env=env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for me in range(count)
        ]
        outputs = [run.communicate(timeout=180) for run in runs]
    for run, (_, error) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, error
    results = [json.loads(output) for output, _ in outputs]
    return [list(each) for each in zip(*results, strict=True)]


@pytest.fixture(autouse=True)
def no_files_of_races(servers: Faults) -> Iterator[None]:
    yield
    for how in ("unique", "finished", "claim", "dispatch"):
        for path in Path(servers.folder).glob(f"{how}-*"):
            path.unlink()


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
    stack.ask("naps(['k%d' % n for n in range(500)], 0, 3600)")
    for job in stack.ask("rows()"):
        stack.ask(f"age({job['id']!r}, 5, 5)")
    stack.ask("[change(row['id'], resend_after=None) for row in rows()] and None")
    race(stack, "dispatch", count=2, rounds=1)
    assert stack.broker.llen(stack.queue) == 500


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
