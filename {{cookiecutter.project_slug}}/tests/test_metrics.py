"""The metrics, and who may read them."""

import asyncio

import pytest
from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.api.routes import metrics
from app.core.config.settings import Settings
from app.core.metrics import Source, scrape
from app.main import app


@pytest.fixture
def local_client(client: TestClient) -> TestClient:
    """A client on the same machine."""
    return TestClient(app, client=("127.0.0.1", 50000))


def read(text: str) -> dict[tuple[str, frozenset[str]], float]:
    """Return the value of each sample by its name and its label values."""
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_answers_only_this_machine_without_a_token(
    client: TestClient, local_client: TestClient
) -> None:
    assert local_client.get("/metrics").status_code == 200
    assert client.get("/metrics").status_code == 404


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_request_of_a_proxy_does_not_come_from_this_machine(
    local_client: TestClient, header: str
) -> None:
    assert local_client.get("/metrics", headers={header: "127.0.0.1"}).status_code == 404


def test_token_is_required_if_there_is_one(
    client: TestClient, local_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_TOKEN", "a-token")
    monkeypatch.setattr(metrics, "settings", Settings())
    right, wrong = ({"Authorization": f"Bearer {token}"} for token in ("a-token", "b-token"))
    assert client.get("/metrics", headers=right).status_code == 200
    assert client.get("/metrics", headers=wrong).status_code == 404
    assert local_client.get("/metrics").status_code == 404


def test_counts_requests_by_route_and_status(local_client: TestClient) -> None:
    name = "http_request_duration_seconds_count"
    expected = {
        (name, frozenset({"POST", "/auth/token", "422"})): 2,
        (name, frozenset({"GET", "unknown", "404"})): 1,
    }
    before = read(local_client.get("/metrics").text)
    for _ in range(2):
        local_client.post("/auth/token")
    local_client.get("/this/is/no/route")
    after = read(local_client.get("/metrics").text)
    assert {key: after[key] - before.get(key, 0) for key in expected} == expected


def test_what_cannot_be_read_is_left_out(client: TestClient) -> None:
    def refuse() -> list[Metric]:
        raise ConnectionRefusedError

    samples = read(asyncio.run(scrape("1.2", [Source("refuses", refuse)])).decode())
    assert samples["scrape_source_up", frozenset({"refuses"})] == 0
    assert samples["dependency_up", frozenset({"database"})] == 1
    assert samples["app_info", frozenset({"1.2"})] == 1
