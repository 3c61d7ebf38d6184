"""The metrics, and who may read them."""

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.core.config.settings import settings


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The headers of a request that may read the metrics."""
    monkeypatch.setattr(settings.app, "METRICS_TOKEN", "a-token")
    return {"Authorization": "Bearer a-token"}


def test_metrics_need_the_token(client: TestClient, token: dict[str, str]) -> None:
    assert client.get("/metrics", headers=token).status_code == 200
    wrong = {"Authorization": "Bearer b-token"}
    assert client.get("/metrics", headers=wrong).status_code == 404
    assert client.get("/metrics").status_code == 404


def test_metrics_are_off_without_a_token(client: TestClient) -> None:
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404


def test_requests_are_counted_by_route_and_status(
    client: TestClient, token: dict[str, str]
) -> None:
    def logins() -> float:
        families = text_string_to_metric_families(client.get("/metrics", headers=token).text)
        wanted = {"handler": "/auth/token", "method": "POST", "status": "4xx"}
        samples = (sample for family in families for sample in family.samples)
        return sum(
            sample.value
            for sample in samples
            if sample.name == "http_requests_total" and sample.labels == wanted
        )

    before = logins()
    client.post("/auth/token")
    assert logins() == before + 1
