"""The logic of the tasks, called like functions: no broker, no worker."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from app.core.celery import DatabaseUnavailableError, with_db_init
from app.core.database import session_scope
from app.core.security import utc_now
from app.models import RefreshToken
from app.tasks.cleanup import cleanup_expired_tokens
from app.tasks.example_task import process_user_data, send_notification, unreliable_task


def test_send_notification() -> None:
    assert send_notification(7, "hello") == {"status": "sent", "user_id": 7}


def test_process_user_data_counts_active_logins(client: TestClient, user: dict[str, str]) -> None:
    user_id = client.get("/users/me", headers=user).json()["id"]
    assert process_user_data(user_id) == {
        "status": "processed",
        "user_id": user_id,
        "active_logins": 1,
    }


def test_process_user_data_of_unknown_user(clean_database: None) -> None:
    with pytest.raises(LookupError, match="no user 99"):
        process_user_data(99)


@pytest.mark.parametrize(("failures", "status"), [(0, "SUCCESS"), (3, "SUCCESS"), (4, "FAILURE")])
def test_unreliable_task_is_retried_three_times(failures: int, status: str) -> None:
    result = unreliable_task.apply(args=({"failures": failures},))
    assert result.status == status


def test_cleanup_deletes_only_expired_tokens(client: TestClient, user: dict[str, str]) -> None:
    assert cleanup_expired_tokens() == {"deleted": 0, "deleted_jobs": 0}
    with session_scope() as session:
        session.query(RefreshToken).one().expires_at = utc_now() - timedelta(seconds=1)
    assert cleanup_expired_tokens() == {"deleted": 1, "deleted_jobs": 0}


def test_unavailable_database_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr("app.core.celery.ping_database", fail)
    with pytest.raises(DatabaseUnavailableError, match="connection refused"):
        with_db_init(lambda: None)()


def test_task_waits_for_an_unavailable_database(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    monkeypatch.setattr("app.core.celery.ping_database", fail)
    assert process_user_data.apply(args=(1,)).status == "FAILURE"
    assert len(calls) == 9
