"""Liveness and readiness."""

import asyncio
import threading
import time

import pytest
from alembic.config import main as alembic
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.core.database import session_scope
from app.core.health import Probe


def test_is_live_and_ready(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "ok"}
    response = client.get("/health/ready")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert {"database", "migrations"} <= response.json()["dependencies"].keys()
    assert set(response.json()["dependencies"].values()) == {"ok"}


def test_names_pending_migrations(client: TestClient) -> None:
    alembic(["downgrade", "base"])
    try:
        response = client.get("/health/ready")
    finally:
        alembic(["upgrade", "head"])
    assert response.status_code == 503
    assert response.json()["dependencies"]["database"] == "ok"
    assert response.json()["dependencies"]["migrations"] == "pending: run alembic upgrade head"
    assert client.get("/health/ready").status_code == 200


def test_is_ready_when_a_newer_version_has_migrated_the_database(client: TestClient) -> None:
    with session_scope() as session:
        query = text("SELECT version_num FROM alembic_version")
        revision = session.execute(query).scalar_one()
        change = text("UPDATE alembic_version SET version_num = :revision")
        session.execute(change, {"revision": "newer"})
    try:
        assert client.get("/health/ready").status_code == 200
    finally:
        with session_scope() as session:
            session.execute(change, {"revision": revision})


def test_probe_that_fails_or_hangs_is_over_within_two_seconds() -> None:
    release = threading.Event()

    def refuse() -> None:
        raise ConnectionRefusedError

    start = time.monotonic()
    try:
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(Probe("refuses", refuse).call())
        with pytest.raises(TimeoutError):
            asyncio.run(Probe("hangs", release.wait).call())
        assert time.monotonic() - start < 2
    finally:
        release.set()
