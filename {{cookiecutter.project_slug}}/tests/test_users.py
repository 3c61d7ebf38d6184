"""``python -m app.users``: accounts from the shell."""

import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.users import app


def users(*arguments: str, password: str = "") -> str:
    """Run the command in this process and return its output; the password is its input."""
    result = CliRunner().invoke(app, arguments, input=password, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def log_in(client: TestClient, password: str) -> int:
    form = {"username": "ann@example.com", "password": password}
    return client.post("/auth/token", data=form).status_code


def test_life_of_an_account(client: TestClient) -> None:
    created = users("create", "Ann@example.com", "--admin", password="correct horse\n")
    assert created == "ann@example.com was created\n"
    assert log_in(client, "correct horse") == 200
    assert "admin ann@example.com" in users("list")
    users("revoke-admin", "ANN@example.com")
    assert "user  ann@example.com" in users("list")
    users("set-password", "ann@example.com", password="battery staple")
    assert log_in(client, "correct horse") == 401
    assert log_in(client, "battery staple") == 200
    users("delete", "ann@example.com")
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
    command = [sys.executable, "-m", "app.users", *arguments]
    password = "short" if "bob" in arguments[1] else "correct horse"
    result = subprocess.run(command, input=password, capture_output=True, text=True, check=False)
    lines = [line for line in result.stderr.splitlines() if not line.startswith(".env, line")]
    assert (result.returncode, lines) == (1, [message])
