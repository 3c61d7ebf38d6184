"""Liveness and readiness."""

import asyncio
import threading
import time

from fastapi.testclient import TestClient


def test_live_and_ready(client: TestClient) -> None:
    assert client.get("/health/live").json()["status"] == "ok"
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert set(ready.json()["dependencies"].values()) == {"ok"}
    assert "database" in ready.json()["dependencies"]


def test_dependency_that_fails_or_hangs_is_down_within_two_seconds() -> None:
    from app.core.health import Probe

    release = threading.Event()

    def refuse() -> None:
        raise ConnectionRefusedError

    async def ask() -> list[bool]:
        probes = [Probe("refuses", refuse), Probe("hangs", release.wait)]
        return list(await asyncio.gather(*(probe.is_up() for probe in probes)))

    start = time.monotonic()
    try:
        assert asyncio.run(ask()) == [False, False]
        assert time.monotonic() - start < 2
    finally:
        release.set()
