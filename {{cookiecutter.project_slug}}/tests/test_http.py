"""Errors, limits, headers and the OpenAPI document, which concern every request."""

import asyncio
from collections.abc import Iterator

import pytest
from alembic.config import main as alembic
from fastapi import Request
from fastapi.testclient import TestClient

from app.api.deps import get_client_address
from app.core.config.settings import settings
from app.core.database import dispose_engine
from app.core.rate_limit import RateLimit, RateLimitExceededError, network_of
from app.main import app

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def without_tables(client: TestClient) -> Iterator[None]:
    alembic(["downgrade", "base"])
    dispose_engine()
    yield
    alembic(["upgrade", "head"])


@pytest.mark.parametrize(
    "body",
    [
        b'{"email": NaN, "password": NaN}',
        b'{"email": "\\ud800@example.com", "password": "secret \\ud800"}',
        b'{"email": "\\u0000@example.com", "password": "secret"}',
        b'{"email": [[[[1e400]]]], "password": "secret"}',
        b"\xff\xfe",
        b"{",
    ],
)
def test_invalid_body_is_a_client_error_that_repeats_nothing(
    client: TestClient, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    response = client.post("/auth/register", content=body, headers=JSON)
    assert response.status_code in (400, 422)
    for error in response.json()["detail"] if response.status_code == 422 else []:
        assert error.keys() == {"loc", "msg", "type"}
    assert "secret" not in response.text + caplog.text


@pytest.mark.parametrize("username", ["ann@example.com\0", "\0", "x" * 100_000, "nobody"])
def test_invalid_username_is_a_client_error(client: TestClient, username: str) -> None:
    form = {"username": username, "password": "secret"}
    assert client.post("/auth/token", data=form).status_code == 422


def test_large_body_is_refused(client: TestClient) -> None:
    body = b'{"email": "' + b"x" * settings.app.MAX_BODY_SIZE + b'"}'
    response = client.post("/auth/register", content=body, headers=JSON)
    assert response.status_code == 413
    assert len(response.content) < 100


def test_missing_table_is_an_internal_error_that_names_the_command(
    without_tables: None, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(app, raise_server_exceptions=False)
    response = client.post(
        "/auth/token", data={"username": "ann@example.com", "password": "secret"}
    )
    assert response.status_code == 500
    assert response.json()["detail"] == "Internal server error"
    assert response.json()["request_id"] == response.headers["X-Request-ID"] != ""
    assert "alembic upgrade head" in caplog.text


def test_responses_have_security_headers(client: TestClient) -> None:
    headers = client.get("/health/live").headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_host_header_does_not_appear_in_a_redirect(client: TestClient) -> None:
    response = client.get("/users/me/", headers={"Host": "evil.example"}, follow_redirects=False)
    assert response.status_code == 404


def test_method_that_is_not_allowed_names_those_that_are(client: TestClient) -> None:
    response = client.delete("/users/me")
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET"


def test_root_leads_to_documentation_that_needs_no_other_server(client: TestClient) -> None:
    response = client.get("/")
    assert response.url.path == "/docs"
    assert "https://" not in response.text
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_openapi_document_names_operations_and_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    login = document["paths"]["/auth/token"]["post"]
    assert login["operationId"] == "login"
    assert login["responses"].keys() >= {"200", "400", "401", "413", "422", "429", "503"}
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status >= "400" and "health" not in operation["tags"]:
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorResponse"}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("testclient", "testclient"),
    ],
)
def test_client_address_is_counted_by_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_forwarded_address_is_not_trusted_by_default() -> None:
    headers = [(b"x-forwarded-for", b"203.0.113.7")]
    # Uvicorn does this with the header if the client is on the same machine.
    request = Request({"type": "http", "client": ("203.0.113.7", 0), "headers": headers})
    assert asyncio.run(get_client_address(request)) == "127.0.0.1"


def test_rate_limit_counts_each_key(client: TestClient) -> None:
    limit = RateLimit("test", "2/minute")
    limit.clear("key")
    limit.hit("key")
    limit.check("key")
    limit.hit("key")
    for refused in (limit.hit, limit.check):
        with pytest.raises(RateLimitExceededError):
            refused("key")
    limit.hit("other key")
    limit.clear("key")
    limit.hit("key")
    limit.clear("key")
    limit.clear("other key")
