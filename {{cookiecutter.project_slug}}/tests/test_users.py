"""``python -m app.users``: accounts from the shell."""

import subprocess
import sys

import pytest
from fastapi.testclient import TestClient


def users(*arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command; the password is a line of its standard input."""
    command = [sys.executable, "-m", "app.users", *arguments]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=False)


def log_in(client: TestClient, password: str) -> int:
    form = {"username": "ann@example.com", "password": password}
    return client.post("/auth/token", data=form).status_code


def test_life_of_an_account(client: TestClient) -> None:
    created = users("create", "Ann@example.com", "--admin", password="correct horse\n")
    assert (created.returncode, created.stdout) == (0, "ann@example.com was created\n")
    assert log_in(client, "correct horse") == 200
    assert "admin ann@example.com" in users("list").stdout
    assert users("revoke-admin", "ANN@example.com").returncode == 0
    assert "user  ann@example.com" in users("list").stdout
    assert users("set-password", "ann@example.com", password="battery staple").returncode == 0
    assert log_in(client, "correct horse") == 401
    assert log_in(client, "battery staple") == 200
    assert users("delete", "ann@example.com").returncode == 0
    assert log_in(client, "battery staple") == 401


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "bob@example.com"), "password: String should have at least 8 characters"),
        (("create", "nobody"), "email: Value error, An email address must have an @-sign."),
        (("set-password", "bob@example.com"), "password: String should have at least 8 characters"),
        (("grant-admin", "bob@example.com"), "There is no user bob@example.com"),
        (("delete", "nobody"), "An email address must have an @-sign."),
    ],
)
def test_mistake_is_one_line(database: None, arguments: tuple[str, ...], message: str) -> None:
    result = users(*arguments, password="short" if "bob" in arguments[1] else "correct horse")
    assert (result.returncode, result.stderr) == (1, f"{message}\n")
