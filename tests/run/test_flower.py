"""Flower as its owner starts it by hand: flowerconfig.py in the project is its configuration."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import Bake
from tests.harness import Stack, free_port, listens, wait_until

pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def stack(installed: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A project with its Redis server."""
    with Stack(installed(), tmp_path_factory.mktemp("flower")) as stack:
        yield stack


def start(stack: Stack, name: str, *options: str, **environment: str) -> int:
    """Start Flower and return its port."""
    port = free_port()
    celery = stack.project / ".venv/bin/celery"
    command: list[str | Path] = [celery, "-A", "app.core.celery.celery_app", "flower"]
    stack.start(name, *command, f"--port={port}", *options, **environment)
    return port


def test_listens_on_loopback_by_default(stack: Stack) -> None:
    port = start(stack, "flower")
    wait_until(lambda: listens(port), message="Flower does not listen")
    [process, *_] = stack.family("flower")
    listening = {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", port)}


def test_sees_the_workers_of_its_project_only(stack: Stack) -> None:
    stack.start_worker()
    stack.start_worker("other", REDIS_KEY_PREFIX="other:")
    port = start(stack, "flower-with-workers", FLOWER_UNAUTHENTICATED_API="true")

    def workers() -> list[str]:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/workers?refresh=1", timeout=30)
        return list(answer.json())

    wait_until(lambda: listens(port), message="Flower does not listen")
    wait_until(workers, message="Flower sees no worker")
    assert [name.partition("@")[0] for name in workers()] == ["worker"]
