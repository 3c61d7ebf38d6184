"""Errors, headers and the OpenAPI document, which concern every route."""

import traceback
from collections.abc import Iterator

import pytest
from alembic.config import main as alembic
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from app.api.deps import SessionDep
from app.core.config.settings import settings
from app.main import app
from app.models import User

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"email": "a@b.de", "password": "\\ud800"}'])
def test_invalid_body_is_a_client_error_that_repeats_nothing(
    client: TestClient, body: bytes
) -> None:
    response = client.post("/auth/register", content=body, headers=JSON)
    assert response.status_code in (400, 422)
    assert "ud800" not in response.text


def test_large_body_is_refused(client: TestClient) -> None:
    body = b'{"email": "' + b"x" * settings.app.MAX_BODY_SIZE + b'"}'
    response = client.post("/auth/register", content=body, headers=JSON)
    assert response.status_code == 413


def test_responses_have_security_headers(client: TestClient) -> None:
    headers = client.get("/health/live").headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_openapi_document_names_operations_and_errors(client: TestClient) -> None:
    login = client.get("/openapi.json").json()["paths"]["/auth/token"]["post"]
    assert login["operationId"] == "auth-login"
    assert login["responses"].keys() == {"200", "400", "401", "413", "422", "429", "503"}


def test_missing_table_is_an_error_that_names_the_command(client: TestClient) -> None:
    form = {"username": "ann@example.com", "password": "secret"}
    alembic(["downgrade", "base"])
    try:
        with pytest.raises(DBAPIError) as caught:
            client.post("/auth/token", data=form)
    finally:
        alembic(["upgrade", "head"])
    assert "uv run alembic upgrade head" in traceback.format_exception(caught.value)[-1]


def test_session_of_a_route_cannot_be_used_after_it(client: TestClient) -> None:
    def emails(session: SessionDep) -> StreamingResponse:
        def lines() -> Iterator[str]:
            yield from session.scalars(select(User.email))

        return StreamingResponse(lines())

    app.add_api_route("/emails", emails, include_in_schema=False)
    try:
        with pytest.raises(InvalidRequestError, match="closed"):
            client.get("/emails")
    finally:
        app.router.routes.pop()
