"""Registration, login, refresh and logout, as a client sees them."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

ACCOUNT = {"email": "ann@example.com", "password": "correct horse"}
LOGIN = {"username": ACCOUNT["email"], "password": ACCOUNT["password"]}


@pytest.fixture
def tokens(client: TestClient) -> dict[str, str]:
    assert client.post("/auth/register", json=ACCOUNT).status_code == 201
    response = client.post("/auth/token", data=LOGIN)
    assert response.status_code == 200
    return dict(response.json())


def refresh(client: TestClient, token: str) -> tuple[int, dict[str, str]]:
    response = client.post("/auth/refresh", json={"refresh_token": token})
    return response.status_code, response.json()


def test_registered_user_reads_themselves(client: TestClient, tokens: dict[str, str]) -> None:
    assert tokens["token_type"] == "bearer"
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    me = client.get("/users/me", headers=headers)
    assert me.status_code == 200
    assert me.json()["email"] == ACCOUNT["email"]


def test_second_registration_is_a_conflict_whatever_the_case(
    client: TestClient, tokens: dict[str, str]
) -> None:
    again = ACCOUNT | {"email": "ANN@example.com"}
    assert client.post("/auth/register", json=again).status_code == 409


@pytest.mark.parametrize(
    ("change", "field"),
    [({"email": "nobody"}, "email"), ({"password": "short"}, "password")],
)
def test_bad_registration_names_the_field(
    client: TestClient, change: dict[str, str], field: str
) -> None:
    response = client.post("/auth/register", json=ACCOUNT | change)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", field]


def test_passwords_are_stored_with_argon2(client: TestClient, tokens: dict[str, str]) -> None:
    from app.core.database import session_scope
    from app.models import User

    with session_scope() as session:
        assert session.query(User).one().password_hash.startswith("$argon2id$")


@pytest.mark.parametrize("change", [{"password": "wrong horse"}, {"username": "bob@example.com"}])
def test_wrong_login_is_refused(
    client: TestClient, tokens: dict[str, str], change: dict[str, str]
) -> None:
    assert client.post("/auth/token", data=LOGIN | change).status_code == 401


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Basic abc"])
def test_request_without_a_good_token_is_refused(client: TestClient, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    response = client.get("/users/me", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_refresh_rotates(client: TestClient, tokens: dict[str, str]) -> None:
    status, new = refresh(client, tokens["refresh_token"])
    assert status == 200
    assert new["refresh_token"] != tokens["refresh_token"]
    assert refresh(client, new["refresh_token"])[0] == 200


def test_refresh_token_used_twice_ends_its_family(
    client: TestClient, tokens: dict[str, str]
) -> None:
    _, new = refresh(client, tokens["refresh_token"])
    assert refresh(client, tokens["refresh_token"])[0] == 401
    assert refresh(client, new["refresh_token"])[0] == 401
    # Another login is another family.
    other = client.post("/auth/token", data=LOGIN).json()
    assert refresh(client, other["refresh_token"])[0] == 200


def test_logout_ends_the_login(client: TestClient, tokens: dict[str, str]) -> None:
    body = {"refresh_token": tokens["refresh_token"]}
    assert client.post("/auth/logout", json=body).status_code == 204
    assert refresh(client, tokens["refresh_token"])[0] == 401


def test_expired_refresh_token_is_refused_and_cleaned_up(
    client: TestClient, tokens: dict[str, str]
) -> None:
    from app.core.database import session_scope
    from app.core.security import utc_now
    from app.models import RefreshToken
    from app.services.auth import delete_expired_tokens

    with session_scope() as session:
        session.query(RefreshToken).one().expires_at = utc_now() - timedelta(seconds=1)
    assert refresh(client, tokens["refresh_token"])[0] == 401
    with session_scope() as session:
        assert delete_expired_tokens(session) == 1
        assert delete_expired_tokens(session) == 0


def test_refresh_tokens_are_not_stored_as_they_are(
    client: TestClient, tokens: dict[str, str]
) -> None:
    from app.core.database import session_scope
    from app.models import RefreshToken

    with session_scope() as session:
        assert tokens["refresh_token"] not in session.query(RefreshToken).one().token_hash


def test_ten_failed_logins_block_the_eleventh(client: TestClient, tokens: dict[str, str]) -> None:
    wrong = {"username": "eve@example.com", "password": "wrong horse"}
    codes = [client.post("/auth/token", data=wrong).status_code for _ in range(11)]
    assert codes == [401] * 10 + [429]
    # Others still get in.
    assert client.post("/auth/token", data=LOGIN).status_code == 200
