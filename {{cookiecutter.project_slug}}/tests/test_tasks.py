"""The logic of the tasks, called like functions: no broker, no worker."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

{% if cookiecutter.database != "sqlite" %}
from tests.servers import free_port
{% endif %}
from tests.servers.database_{{ cookiecutter.database }} import DATABASE_URL


def test_send_notification() -> None:
    from app.tasks.example_task import send_notification

    assert send_notification(7, "hello") == {"status": "sent", "user_id": 7}


def test_process_user_data_counts_active_logins(client: TestClient, user: dict[str, str]) -> None:
    from app.tasks.example_task import process_user_data

    user_id = client.get("/users/me", headers=user).json()["id"]
    assert process_user_data(user_id) == {
        "status": "processed",
        "user_id": user_id,
        "active_logins": 1,
    }


def test_process_user_data_of_nobody(clean_database: None) -> None:
    from app.tasks.example_task import process_user_data

    with pytest.raises(LookupError, match="no user 99"):
        process_user_data(99)


@pytest.mark.parametrize(("failures", "status"), [(0, "SUCCESS"), (3, "SUCCESS"), (4, "FAILURE")])
def test_unreliable_task_is_retried_three_times(failures: int, status: str) -> None:
    from app.tasks.example_task import unreliable_task

    result = unreliable_task.apply(args=({"failures": failures},))
    assert result.status == status


def test_cleanup_deletes_only_expired_tokens(client: TestClient, user: dict[str, str]) -> None:
    from app.core.database import session_scope
    from app.core.security import utc_now
    from app.models import RefreshToken
    from app.tasks.cleanup import cleanup_expired_tokens

    assert cleanup_expired_tokens() == {"deleted": 0}
    with session_scope() as session:
        session.query(RefreshToken).one().expires_at = utc_now() - timedelta(seconds=1)
    assert cleanup_expired_tokens() == {"deleted": 1}


def test_database_away_is_a_clear_error_worth_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import create_engine, make_url

    from app.core import database
    from app.core.celery import DatabaseUnavailableError, with_db_init

{% if cookiecutter.database == "sqlite" %}
    url = make_url(DATABASE_URL).set(database="/nowhere/at/all.db")
{% else %}
    url = make_url(DATABASE_URL).set(port=free_port())
{% endif %}
    monkeypatch.setattr(database, "_engine", create_engine(url))
    with pytest.raises(DatabaseUnavailableError, match="the database does not answer: "):
        with_db_init(lambda: None)()
