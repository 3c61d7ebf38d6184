"""Registration, login, refresh and logout, as a client sees them."""

from datetime import timedelta
from typing import Any

import jwt
import pytest
from fastapi.testclient import TestClient

from app.core.config.settings import settings
from app.core.database import session_scope
from app.core.security import utc_now
from app.models import RefreshToken, User
from app.services.auth import delete_expired_tokens

ACCOUNT = {"email": "ann@example.com", "password": "correct horse"}
LOGIN = {"username": ACCOUNT["email"], "password": ACCOUNT["password"]}


@pytest.fixture
def tokens(client: TestClient) -> dict[str, Any]:
    assert client.post("/auth/register", json=ACCOUNT).status_code == 201
    return log_in(client)


def log_in(client: TestClient) -> dict[str, Any]:
    response = client.post("/auth/token", data=LOGIN)
    assert response.status_code == 200
    return dict(response.json())


def refresh(client: TestClient, token: str) -> tuple[int, dict[str, Any]]:
    response = client.post("/auth/refresh", json={"refresh_token": token})
    return response.status_code, response.json()


def read_me(client: TestClient, access_token: str) -> int:
    headers = {"Authorization": f"Bearer {access_token}"}
    return client.get("/users/me", headers=headers).status_code


def end_grace_period() -> None:
    with session_scope() as session:
        session.query(RefreshToken).update({"rotated_at": utc_now() - timedelta(minutes=1)})


def test_registered_user_reads_themselves(client: TestClient, tokens: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    me = client.get("/users/me", headers=headers)
    assert me.status_code == 200
    assert me.json()["email"] == ACCOUNT["email"]


def test_token_response_follows_oauth2(client: TestClient, tokens: dict[str, Any]) -> None:
    assert tokens["token_type"] == "bearer"
    assert tokens["expires_in"] == settings.app.ACCESS_TOKEN_MINUTES * 60
    response = client.post("/auth/token", data=LOGIN | {"grant_type": "password", "scope": ""})
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "spelling",
    [
        "ANN@Example.com",
        " ann@example.com ",
        "\uff41\uff4e\uff4e@\uff45xample.com",  # full-width letters
    ],
)
def test_email_address_has_one_spelling(
    client: TestClient, tokens: dict[str, Any], spelling: str
) -> None:
    again = ACCOUNT | {"email": spelling}
    assert client.post("/auth/register", json=again).status_code == 409
    assert client.post("/auth/token", data=LOGIN | {"username": spelling}).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        " bob@example.com ",
        "bob@xn--bcher-kva.example.com",  # punycode
        "bjo\u0308rn@example.com",  # decomposed (NFD)
        "\uff42ob@example.com",  # full-width letters
    ],
)
def test_registered_address_can_log_in(client: TestClient, address: str) -> None:
    account = {"email": address, "password": ACCOUNT["password"]}
    assert client.post("/auth/register", json=account).status_code == 201
    form = {"username": address, "password": ACCOUNT["password"]}
    assert client.post("/auth/token", data=form).status_code == 200


def test_addresses_that_differ_by_an_accent_are_two_accounts(
    client: TestClient, tokens: dict[str, Any]
) -> None:
    account = ACCOUNT | {"email": "\u00e4nn@example.com"}
    assert client.post("/auth/register", json=account).status_code == 201


def test_password_is_normalized(client: TestClient) -> None:
    account = ACCOUNT | {"password": "u\u0308ber den Wolken"}
    assert client.post("/auth/register", json=account).status_code == 201
    form = LOGIN | {"password": "\u00fcber den Wolken"}
    assert client.post("/auth/token", data=form).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"email": "nobody"}, "email"),
        ({"email": "ann@example.com\0"}, "email"),
        ({"password": "short"}, "password"),
        ({"password": "password123"}, "password"),
        ({"password": "Iloveyou"}, "password"),
        ({"password": "x" * 129}, "password"),
    ],
)
def test_bad_registration_names_the_field(
    client: TestClient, change: dict[str, str], field: str
) -> None:
    response = client.post("/auth/register", json=ACCOUNT | change)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", field]


def test_passwords_are_stored_with_argon2(client: TestClient, tokens: dict[str, Any]) -> None:
    with session_scope() as session:
        assert session.query(User).one().password_hash.startswith("$argon2id$")


@pytest.mark.parametrize("change", [{"password": "wrong horse"}, {"username": "bob@example.com"}])
def test_wrong_login_is_refused(
    client: TestClient, tokens: dict[str, Any], change: dict[str, str]
) -> None:
    response = client.post("/auth/token", data=LOGIN | change)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic abc"])
def test_request_without_a_valid_token_is_refused(client: TestClient, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    response = client.get("/users/me", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "change", [{"sub": "1" + 30 * "0"}, {"sub": "-1"}, {"sub": "x"}, {"sid": 1}]
)
def test_access_token_with_impossible_claims_is_refused(
    client: TestClient, tokens: dict[str, Any], change: dict[str, Any]
) -> None:
    key = settings.app.SECRET_KEY
    claims = jwt.decode(tokens["access_token"], key, algorithms=["HS256"])
    assert read_me(client, jwt.encode(claims, key)) == 200
    assert read_me(client, jwt.encode(claims | change, key)) == 401


def test_access_token_of_a_deleted_user_is_refused(
    client: TestClient, tokens: dict[str, Any]
) -> None:
    with session_scope() as session:
        session.query(User).delete()
    assert read_me(client, tokens["access_token"]) == 401


def test_refresh_rotates(client: TestClient, tokens: dict[str, Any]) -> None:
    status, new = refresh(client, tokens["refresh_token"])
    assert status == 200
    assert new["refresh_token"] != tokens["refresh_token"]
    assert refresh(client, new["refresh_token"])[0] == 200


def test_refresh_token_used_twice_ends_its_login(
    client: TestClient, tokens: dict[str, Any]
) -> None:
    other = log_in(client)
    _, new = refresh(client, tokens["refresh_token"])
    end_grace_period()
    assert refresh(client, tokens["refresh_token"])[0] == 401
    assert refresh(client, new["refresh_token"])[0] == 401
    assert read_me(client, new["access_token"]) == 401
    assert refresh(client, other["refresh_token"])[0] == 200


def test_repeated_refresh_gets_the_same_answer_for_some_seconds(
    client: TestClient, tokens: dict[str, Any]
) -> None:
    answers = [refresh(client, tokens["refresh_token"]) for _ in range(2)]
    assert [status for status, _ in answers] == [200, 200]
    assert answers[0][1]["refresh_token"] == answers[1][1]["refresh_token"]
    # An older token is a replay even now.
    assert refresh(client, answers[0][1]["refresh_token"])[0] == 200
    assert refresh(client, tokens["refresh_token"])[0] == 401


def test_logout_ends_the_login_at_once(client: TestClient, tokens: dict[str, Any]) -> None:
    body = {"refresh_token": tokens["refresh_token"]}
    assert client.post("/auth/logout", json=body).status_code == 204
    assert refresh(client, tokens["refresh_token"])[0] == 401
    assert read_me(client, tokens["access_token"]) == 401
    assert client.post("/auth/logout", json=body).status_code == 204


def test_access_token_does_not_outlive_its_login_by_another_login(
    client: TestClient, tokens: dict[str, Any]
) -> None:
    client.post("/auth/logout", json={"refresh_token": tokens["refresh_token"]})
    log_in(client)
    assert read_me(client, tokens["access_token"]) == 401


def test_logout_everywhere_ends_all_logins(client: TestClient, tokens: dict[str, Any]) -> None:
    other = log_in(client)
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert client.post("/auth/logout-everywhere", headers=headers).status_code == 204
    for login in (tokens, other):
        assert refresh(client, login["refresh_token"])[0] == 401
        assert read_me(client, login["access_token"]) == 401


def test_expired_refresh_token_is_refused_and_cleaned_up(
    client: TestClient, tokens: dict[str, Any]
) -> None:
    with session_scope() as session:
        session.query(RefreshToken).one().expires_at = utc_now() - timedelta(seconds=1)
    assert refresh(client, tokens["refresh_token"])[0] == 401
    with session_scope() as session:
        assert delete_expired_tokens(session) == 1
        assert delete_expired_tokens(session) == 0


def test_refresh_tokens_are_stored_hashed(client: TestClient, tokens: dict[str, Any]) -> None:
    with session_scope() as session:
        stored = session.query(RefreshToken).one()
        for part in tokens["refresh_token"].split("."):
            assert part not in (stored.family, stored.token_hash)


def test_ten_failed_logins_block_the_eleventh(client: TestClient, tokens: dict[str, Any]) -> None:
    wrong = {"username": "eve@example.com", "password": "wrong horse"}
    responses = [client.post("/auth/token", data=wrong) for _ in range(11)]
    assert [response.status_code for response in responses] == [401] * 10 + [429]
    assert int(responses[-1].headers["Retry-After"]) > 0
    # Other accounts are not blocked.
    assert client.post("/auth/token", data=LOGIN).status_code == 200


def test_successful_logins_are_not_limited(client: TestClient, tokens: dict[str, Any]) -> None:
    assert {client.post("/auth/token", data=LOGIN).status_code for _ in range(12)} == {200}
