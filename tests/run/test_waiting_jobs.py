"""Waiting jobs need little of Redis, whatever their arguments, and a full Redis can be emptied."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Bake
from tests.harness import Stack, log_in, wait_until

COUNT = 500
# What a job may need in Redis.
EACH = 4 * 1024


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


def queue(user: httpx.Client, message: str, count: int) -> list[str]:
    """Queue notifications and return the ids of their tasks."""
    ids: list[str] = []
    for _ in range(count):
        response = user.post("/notify", params={"user_id": 1, "message": message})
        assert response.status_code == 202, response.text
        ids.append(response.json()["task_id"])
    return ids


def count_messages(stack: Stack) -> int:
    """Return the number of messages in all queues."""
    return sum(stack.broker.llen(key) for key in stack.broker.scan_iter(_type="list"))


def test_arguments_are_not_in_redis(stack: Stack) -> None:
    user = log_in(stack.start_api())
    empty = stack.redis.info("memory")["used_memory"]
    waiting = queue(user, longest_message(user), COUNT)
    wait_until(lambda: count_messages(stack) >= len(waiting), message="messages are missing")
    assert stack.redis.info("memory")["used_memory"] - empty < COUNT * EACH + 1024 * 1024


def test_full_redis_is_emptied(stack: Stack) -> None:
    """As docs/tasks.md says: the jobs are in the database, and beat sends their messages again."""
    page = (stack.project / "docs/tasks.md").read_text()
    assert "redis-cli -n 1 flushdb" in page
    user = log_in(stack.start_api())
    waiting = queue(user, longest_message(user), 50)
    wait_until(lambda: count_messages(stack) >= len(waiting), message="messages are missing")
    stack.broker.setrange("more", 2_000_000, "x")
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
