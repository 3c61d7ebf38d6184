"""Registration, login, refresh, logout and the change of a password, as a client sees them."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app.core.database import session_scope
from app.core.security import utc_now
from app.models import RefreshToken, User
from app.services.auth import delete_expired_tokens

ACCOUNT = {"email": "ann@example.com", "password": "correct horse"}
LOGIN = {"username": ACCOUNT["email"], "password": ACCOUNT["password"]}

Tokens = dict[str, str]


@pytest.fixture
def tokens(client: TestClient) -> Tokens:
    """The tokens of a registered user."""
    assert client.post("/auth/register", json=ACCOUNT).status_code == 201
    return log_in(client)


def log_in(client: TestClient, password: str = ACCOUNT["password"]) -> Tokens:
    response = client.post("/auth/token", data=LOGIN | {"password": password})
    assert response.status_code == 200
    return dict(response.json())


def refresh(client: TestClient, tokens: Tokens) -> Tokens | None:
    """Return the new tokens, or None when the API refuses."""
    body = {"refresh_token": tokens["refresh_token"]}
    response = client.post("/auth/refresh", json=body)
    assert response.status_code in (200, 401)
    return response.json() if response.status_code == 200 else None


def bearer(tokens: Tokens) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


def change_password(client: TestClient, tokens: Tokens, old: str, new: str) -> int:
    body = {"current_password": old, "new_password": new}
    response = client.post("/users/me/password", json=body, headers=bearer(tokens))
    return response.status_code


def move_into_the_past(column: str, **time: float) -> None:
    """Let a time of all refresh tokens be as long ago."""
    with session_scope() as session:
        session.execute(update(RefreshToken).values({column: utc_now() - timedelta(**time)}))


def test_registered_user_reads_themselves(client: TestClient, tokens: Tokens) -> None:
    me = client.get("/users/me", headers=bearer(tokens))
    assert me.status_code == 200
    assert me.json()["email"] == ACCOUNT["email"]


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic abc"])
def test_requests_without_a_valid_token_are_refused(client: TestClient, header: str | None) -> None:
    response = client.get("/users/me", headers={"Authorization": header} if header else {})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("spelling", ["ANN@Example.com", " ann@example.com "])
def test_an_address_has_one_spelling(client: TestClient, tokens: Tokens, spelling: str) -> None:
    again = client.post("/auth/register", json=ACCOUNT | {"email": spelling})
    assert again.status_code == 409
    assert client.post("/auth/token", data=LOGIN | {"username": spelling}).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "nobody"), ("email", "ann@example.com\0"), ("password", "short")],
)
def test_bad_registration_names_the_field(client: TestClient, field: str, value: str) -> None:
    response = client.post("/auth/register", json=ACCOUNT | {field: value})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", field]
    assert value not in response.json()["detail"][0].values()


@pytest.mark.parametrize("change", [{"password": "wrong horse"}, {"username": "bob@example.com"}])
def test_wrong_login_is_refused(client: TestClient, tokens: Tokens, change: dict[str, str]) -> None:
    assert client.post("/auth/token", data=LOGIN | change).status_code == 401


def test_ten_wrong_passwords_block_an_account_for_a_minute(
    client: TestClient, tokens: Tokens
) -> None:
    wrong = LOGIN | {"username": "eve@example.com"}
    responses = [client.post("/auth/token", data=wrong) for _ in range(11)]
    assert [response.status_code for response in responses] == [401] * 10 + [429]
    assert int(responses[-1].headers["Retry-After"]) > 0
    # Logins that succeed are not counted, and other accounts are not blocked.
    for _ in range(12):
        log_in(client)


def test_passwords_and_refresh_tokens_are_stored_hashed(client: TestClient, tokens: Tokens) -> None:
    with session_scope() as session:
        assert session.scalars(select(User)).one().password_hash.startswith("$argon2id$")
        stored = session.scalars(select(RefreshToken)).one()
        assert tokens["refresh_token"] not in (stored.family, stored.token_hash)


def test_refresh_token_used_twice_ends_its_login(client: TestClient, tokens: Tokens) -> None:
    other = log_in(client)
    new = refresh(client, tokens)
    assert new
    assert refresh(client, tokens)  # The first answer may have been lost.
    move_into_the_past("used_at", seconds=11)
    assert refresh(client, tokens) is None
    assert refresh(client, new) is None
    with session_scope() as session:
        assert session.scalars(select(RefreshToken)).one().used_at
    move_into_the_past("used_at", seconds=1)
    assert refresh(client, other)


def test_logout_ends_a_login(client: TestClient, tokens: Tokens) -> None:
    other = log_in(client)
    body = {"refresh_token": tokens["refresh_token"]}
    assert client.post("/auth/logout", json=body).status_code == 204
    assert refresh(client, tokens) is None
    assert refresh(client, other)
    assert client.post("/auth/logout", json=body).status_code == 204


def test_logout_everywhere_ends_all_logins(client: TestClient, tokens: Tokens) -> None:
    other = log_in(client)
    response = client.post("/auth/logout-everywhere", headers=bearer(tokens))
    assert response.status_code == 204
    assert refresh(client, tokens) is refresh(client, other) is None


def test_expired_refresh_token_is_refused_and_deleted(client: TestClient, tokens: Tokens) -> None:
    move_into_the_past("expires_at", seconds=1)
    assert refresh(client, tokens) is None
    with session_scope() as session:
        assert delete_expired_tokens(session) == 1


def test_password_change_ends_all_logins(client: TestClient, tokens: Tokens) -> None:
    other = log_in(client)
    assert change_password(client, tokens, ACCOUNT["password"], "battery staple") == 204
    assert refresh(client, tokens) is refresh(client, other) is None
    assert client.post("/auth/token", data=LOGIN).status_code == 401
    log_in(client, "battery staple")


def test_guesses_of_the_current_password_are_limited(client: TestClient, tokens: Tokens) -> None:
    assert change_password(client, tokens, ACCOUNT["password"], "short") == 422
    codes = [change_password(client, tokens, "wrong horse", "battery staple") for _ in range(11)]
    assert codes == [403] * 10 + [429]
    log_in(client)  # Logins have a limit of their own.
