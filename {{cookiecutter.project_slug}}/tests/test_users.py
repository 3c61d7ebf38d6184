"""The current user and the change of their password."""

import pytest
from fastapi.testclient import TestClient

from app.core.rate_limit import logins

PASSWORD, NEW_PASSWORD = "correct horse", "battery staple"
EMAIL = "ann@example.com"


def log_in(client: TestClient, password: str = PASSWORD) -> dict[str, str]:
    response = client.post("/auth/token", data={"username": EMAIL, "password": password})
    assert response.status_code == 200
    return dict(response.json())


@pytest.fixture
def tokens(client: TestClient) -> dict[str, str]:
    client.post("/auth/register", json={"email": EMAIL, "password": PASSWORD})
    return log_in(client)


def change_password(client: TestClient, tokens: dict[str, str], old: str, new: str) -> int:
    response = client.post(
        "/users/me/password",
        json={"current_password": old, "new_password": new},
        headers={"Authorization": f"Bearer {tokens['access_token']}"},
    )
    return response.status_code


def refresh(client: TestClient, tokens: dict[str, str]) -> int:
    body = {"refresh_token": tokens["refresh_token"]}
    return client.post("/auth/refresh", json=body).status_code


def test_password_change_ends_all_other_logins(client: TestClient, tokens: dict[str, str]) -> None:
    other = log_in(client)
    assert change_password(client, tokens, PASSWORD, NEW_PASSWORD) == 204
    assert refresh(client, other) == 401
    assert refresh(client, tokens) == 200
    form = {"username": EMAIL, "password": PASSWORD}
    assert client.post("/auth/token", data=form).status_code == 401
    log_in(client, NEW_PASSWORD)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [("wrong horse", NEW_PASSWORD, 403), (PASSWORD, "password", 422), (PASSWORD, "short", 422)],
)
def test_bad_password_change_is_refused(
    client: TestClient, tokens: dict[str, str], old: str, new: str, status: int
) -> None:
    other = log_in(client)
    assert change_password(client, tokens, old, new) == status
    assert refresh(client, other) == 200
    log_in(client)


def test_guesses_of_the_current_password_are_limited(
    client: TestClient, tokens: dict[str, str]
) -> None:
    codes = [change_password(client, tokens, "wrong horse", NEW_PASSWORD) for _ in range(11)]
    assert codes == [403] * 10 + [429]
    logins.clear(EMAIL)


def test_password_change_requires_authentication(client: TestClient) -> None:
    assert change_password(client, {"access_token": "x"}, PASSWORD, NEW_PASSWORD) == 401
