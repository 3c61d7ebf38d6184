"""Flower as its owner starts it by hand, with the project's flowerconfig.py."""

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


def test_listens_on_loopback_and_is_read_only(stack: Stack) -> None:
    port = start(stack, "flower")
    wait_until(lambda: listens(port), message="Flower does not listen")
    [process, *_] = stack.family("flower")
    listening = {c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", port)}
    answer = httpx.post(f"http://127.0.0.1:{port}/api/worker/shutdown/celery@nowhere")
    assert answer.status_code in (401, 403)


def test_refuses_to_start_without_a_password_in_production(stack: Stack) -> None:
    start(stack, "flower-without-password", ENVIRONMENT="production")
    assert stack.processes["flower-without-password"].wait(60) != 0
    lines = stack.log("flower-without-password").strip().splitlines()
    assert lines == [
        "Flower needs a password outside development: set FLOWER_BASIC_AUTH=user:password"
    ]


@pytest.mark.parametrize("option", [True, False])
def test_starts_with_a_password_in_production(stack: Stack, option: bool) -> None:
    name = f"flower-with-password-{option}"
    options = ["--basic-auth=me:secret"] if option else []
    environment = {} if option else {"FLOWER_BASIC_AUTH": "me:secret"}
    port = start(stack, name, *options, ENVIRONMENT="production", **environment)
    wait_until(lambda: listens(port), message="Flower does not listen")
    assert httpx.get(f"http://127.0.0.1:{port}/tasks").status_code == 401
    assert httpx.get(f"http://127.0.0.1:{port}/tasks", auth=("me", "secret")).status_code == 200
