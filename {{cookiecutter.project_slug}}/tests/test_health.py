"""Liveness and readiness."""

import threading
import time

import anyio
import pytest
from alembic.config import main as alembic
from fastapi.testclient import TestClient

from app.api.routes import health


def test_is_live_and_ready(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "ok"}
    response = client.get("/health/ready")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert response.json()["dependencies"] == dict.fromkeys(["database", *health.CHECKS], "ok")


def test_pending_migrations_are_named(client: TestClient) -> None:
    alembic(["downgrade", "base"])
    try:
        response = client.get("/health/ready")
    finally:
        alembic(["upgrade", "head"])
    assert response.status_code == 503
    states = response.json()["dependencies"]
    assert states["database"] == "ok"
    assert states["migrations"] == "pending: run uv run alembic upgrade head"


def test_dependency_that_hangs_is_down(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    hangs = (lambda: [release.wait()], anyio.CapacityLimiter(1))
    monkeypatch.setitem(health.CHECKS, "migrations", hangs)
    start = time.monotonic()
    try:
        response = client.get("/health/ready")
    finally:
        release.set()
    assert time.monotonic() - start < 3
    assert response.status_code == 503
    assert response.json()["dependencies"]["database"] == "down"
