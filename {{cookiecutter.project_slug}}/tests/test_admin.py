"""The admin page, as a browser uses it."""

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from app.core.database import session_scope
from app.jobs import Job, JobStatus, enqueue
from app.models import ScheduleState, User
from app.tasks.example_task import send_notification

PASSWORD = "correct horse battery staple"
ENTRY = "cleanup-expired-tokens"


@pytest.fixture
def admin(client: TestClient) -> TestClient:
    """A browser in which an administrator is logged in."""
    register(client, "admin@example.com", is_admin=True)
    assert log_in(client, "admin@example.com", PASSWORD).status_code == 200
    return client


def register(client: TestClient, email: str, is_admin: bool) -> None:
    """Register a user, who may use the admin page."""
    client.post("/auth/register", json={"email": email, "password": PASSWORD})
    with session_scope() as session:
        session.query(User).filter_by(email=email).one().is_admin = is_admin


def log_in(client: TestClient, email: str, password: str) -> Response:
    """Send the form of the login page, and follow the redirect to the jobs."""
    client.get("/admin/login")
    form = {"username": email, "password": password, "csrftoken": csrf_token(client)}
    return client.post("/admin/login", data=form)


def csrf_token(client: TestClient) -> str:
    """Return the token that forms and actions send."""
    return str(client.cookies["starlette_admin_csrftoken"])


def act(client: TestClient, view: str, name: str, key: str, **headers: str) -> Response:
    """Click an action in the row of a job or an entry of the schedule."""
    headers["X-CSRFToken"] = csrf_token(client)
    params = {"name": name, "pk": key}
    return client.post(f"/admin/_api/{view}/row-action", params=params, headers=headers)


def add_failed_job() -> str:
    """Add a job that has failed, and return its id."""
    with session_scope() as session:
        job = enqueue(session, send_notification, user_id=1, message="hello")
        job.status, job.result = JobStatus.FAILURE, "ConnectionError: <b>no route</b>"
    return job.id


def test_asks_for_a_login(client: TestClient) -> None:
    response = client.get("/admin")
    assert response.url.path == "/admin/login"


def test_refuses_a_wrong_password(client: TestClient) -> None:
    register(client, "admin@example.com", is_admin=True)
    response = log_in(client, "admin@example.com", "wrong password")
    assert "Wrong email address or password" in response.text
    assert client.get("/admin/job/list").url.path == "/admin/login"


def test_refuses_a_user_who_is_no_administrator(client: TestClient) -> None:
    register(client, "user@example.com", is_admin=False)
    response = log_in(client, "user@example.com", PASSWORD)
    assert "not an administrator" in response.text
    assert client.get("/admin/job/list").url.path == "/admin/login"


def test_password_change_ends_the_login(admin: TestClient) -> None:
    login = {"username": "admin@example.com", "password": PASSWORD}
    token = admin.post("/auth/token", data=login).json()["access_token"]
    body = {"current_password": PASSWORD, "new_password": "another long password"}
    headers = {"Authorization": f"Bearer {token}"}
    assert admin.post("/users/me/password", json=body, headers=headers).status_code == 204
    assert admin.get("/admin/job/list").url.path == "/admin/login"


def test_shows_and_retries_a_failed_job(admin: TestClient) -> None:
    job_id = add_failed_job()
    page = admin.get("/admin/job/list", params={"filter": "status__in=FAILURE"})
    assert "ConnectionError: &lt;b&gt;no route" in page.text
    assert act(admin, "job", "retry", job_id).status_code == 200
    with session_scope() as session:
        assert session.get_one(Job, job_id).status != JobStatus.FAILURE


def test_pauses_and_resumes_an_entry_of_the_schedule(admin: TestClient) -> None:
    for name, is_paused in (("pause", True), ("resume", False)):
        assert act(admin, "schedule-state", name, ENTRY).status_code == 200
        with session_scope() as session:
            assert session.get_one(ScheduleState, ENTRY).is_paused is is_paused
    response = act(admin, "schedule-state", "run", "no-such-entry")
    assert response.json() == {"msg": "there is no entry no-such-entry"}


def test_refuses_actions_of_other_sites(admin: TestClient) -> None:
    job_id = add_failed_job()
    response = act(admin, "job", "retry", job_id, Origin="https://evil.example")
    assert response.status_code == 403
