"""One user cannot fill Redis with waiting jobs, and a full Redis can be emptied."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Bake
from tests.harness import Stack, log_in, wait_until

# A quarter of what Redis may use in Compose.
SHARE = 64 * 1024 * 1024
MOST = 1_500


@pytest.fixture
def stack(installed: Bake, tmp_path: Path) -> Iterator[Stack]:
    """The servers of a project, without a worker."""
    with Stack(installed(database="postgresql"), tmp_path / "stack") as stack:
        yield stack


def longest_message(api: httpx.Client) -> str:
    """Return the message that takes the most room in Redis: a JSON escape has twelve characters."""
    parameters = api.get("/openapi.json").json()["paths"]["/notify"]["post"]["parameters"]
    (schema,) = (each["schema"] for each in parameters if each["name"] == "message")
    return "\U0001f600" * int(schema["maxLength"])


def queue(user: httpx.Client, message: str) -> list[str]:
    """Queue notifications until they are refused, and return the ids of their tasks."""
    ids: list[str] = []
    while len(ids) < MOST:
        response = user.post("/notify", params={"user_id": 1, "message": message})
        if response.status_code == 429:
            assert int(response.headers["Retry-After"]) > 0
            return ids
        assert response.status_code == 202, response.text
        ids.append(response.json()["task_id"])
    pytest.fail(f"{MOST} jobs of one user may wait")


def count_messages(stack: Stack) -> int:
    """Return the number of messages in all queues."""
    return sum(stack.broker.llen(key) for key in stack.broker.scan_iter(_type="list"))


def test_one_user_cannot_fill_redis(stack: Stack) -> None:
    user = log_in(stack.start_api())
    empty = stack.redis.info("memory")["used_memory"]
    waiting = queue(user, longest_message(user))
    wait_until(lambda: count_messages(stack) >= len(waiting), message="messages are missing")
    assert stack.redis.info("memory")["used_memory"] - empty < SHARE


def test_retry_counts_as_waiting(stack: Stack) -> None:
    user = log_in(stack.start_api(JOB_MAX_WAITING_PER_USER="3"))
    waiting = queue(user, "x")
    for task_id in waiting:
        assert user.delete(f"/task/{task_id}").json()["status"] == "REVOKED"
    assert len(queue(user, "x")) == len(waiting) == 3
    refused = user.post(f"/task/{waiting[0]}/retry")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert user.get(f"/task/{waiting[0]}").json()["status"] == "REVOKED"


def test_full_redis_is_emptied(stack: Stack) -> None:
    """As docs/tasks.md says: the jobs are in the database, and beat sends their messages again."""
    page = (stack.project / "docs/tasks.md").read_text()
    assert "redis-cli -n 1 flushdb" in page
    user = log_in(stack.start_api(JOB_MAX_WAITING_PER_USER="100"))
    waiting = queue(user, longest_message(user))
    wait_until(lambda: count_messages(stack) >= len(waiting), message="messages are missing")
    stack.redis.config_set("maxmemory", stack.redis.info("memory")["used_memory"])
    stack.start_worker(wait=False)
    stack.wait_for_log("worker", "OutOfMemoryError")
    stack.kill("worker")

    stack.broker.flushdb()
    stack.start_worker()
    stack.start_beat()
    wait_until(lambda: not user.get("/tasks", params={"status": "PENDING"}).json()["items"])
    done = user.get("/tasks", params={"status": "SUCCESS", "limit": 100}).json()["items"]
    assert {task["task_id"] for task in done} == set(waiting)
