"""What remains of a user who was deleted: nothing that the next one could get."""

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.conftest import Bake
from tests.harness import Stack, log_in

DELETE = """
import sys
from app.core.database import session_scope
from app.models import User
from app.services.auth import delete_user
with session_scope() as session:
    delete_user(session, session.get(User, int(sys.argv[1])))
"""


def user_id(client: httpx.Client) -> int:
    """Return the id of the user who is logged in."""
    return int(client.get("/users/me").raise_for_status().json()["id"])


@pytest.mark.parametrize("way", ["sqlite3", "delete_user"])
def test_next_user_gets_nothing_of_a_deleted_one(installed: Bake, tmp_path: Path, way: str) -> None:
    """Neither the id nor the jobs, and the old tokens log nobody in."""
    project = installed(use_backup=False, use_docker=False)
    with Stack(project, tmp_path / "stack") as stack:
        old = log_in(stack.start_api(), "ada@example.com")
        number = user_id(old)
        queued = old.post(f"/notify?user_id={number}&message=secret").raise_for_status()
        task_id = queued.json()["task_id"]
        if way == "delete_user":
            stack.python(DELETE, str(number))
        else:  # Its shell has foreign keys off, so the logins stay.
            with closing(sqlite3.connect(stack.folder / "app.db")) as db, db:
                db.execute("DELETE FROM users")
        with closing(sqlite3.connect(stack.folder / "app.db")) as db:
            remaining = {
                table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("jobs", "refresh_tokens")
            }
        expected = 0 if way == "delete_user" else 1
        assert remaining == {"jobs": expected, "refresh_tokens": expected}
        new = log_in(old, "bob@example.com")
        assert user_id(new) != number
        assert old.get("/users/me").status_code == 401
        assert task_id not in new.get("/tasks").raise_for_status().text
        assert new.get(f"/task/{task_id}").status_code == 404
        assert new.delete(f"/task/{task_id}").status_code == 404


INVITE = "from app.tasks.example_task import invite_user; print(invite_user('Ada@Example.com'))"
SENTRY = """
import sentry_sdk
from app.core.logging import configure_logging
configure_logging()
options = sentry_sdk.get_client().options
print(options["include_local_variables"], options["max_request_body_size"])
"""


def test_secrets_and_invited_accounts(installed: Bake, tmp_path: Path) -> None:
    """Who was invited cannot be told, and Sentry gets neither passwords nor tokens."""
    project = installed(use_backup=False, use_docker=False)
    with Stack(project, tmp_path / "stack") as stack:
        api = stack.start_api()
        assert "'user_id': 1" in stack.python(INVITE)
        for email in ("ada@example.com", "nobody@example.com"):
            form = {"username": email, "password": "correct horse battery"}
            assert api.post("/auth/token", data=form).status_code == 401
        assert "ada@example.com" in stack.run("python", "-m", "app.users", "list")
        dsn = "https://key@sentry.invalid/1"
        assert stack.python(SENTRY, SENTRY_DSN=dsn).split() == ["False", "never"]
