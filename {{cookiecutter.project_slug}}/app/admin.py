"""The admin page, ``/admin``: jobs, the schedule and users, for users with ``is_admin``.

It reads the database, so it survives restarts. https://jowilf.github.io/starlette-admin/
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from anyio import to_thread
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse
from jinja2 import DictLoader
from pydantic import ValidationError
from sqlalchemy import ColumnElement, String, cast, exc, or_, select
from sqlalchemy.orm import Session
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.sessions import SessionMiddleware
from starlette_admin import EnumField, Link, RequestAction, TextAreaField, flash
from starlette_admin.actions import ActionSelection, action, row_action
from starlette_admin.auth import AdminUser, AuthProvider, LoginFailed
from starlette_admin.contrib.sqla import Admin, ModelView
from starlette_admin.exceptions import ActionFailed

from app import jobs
from app.api.errors import database_failed
from app.api.routes.auth import LoginForm, login
from app.core.config.settings import settings
from app.core.database import get_engine
from app.core.security import hash_token, utc_now
from app.models import Job, JobStatus, RefreshToken, ScheduleState, User
from app.models.job import RUNNING, WAITING
from app.services import auth

log = structlog.get_logger(__name__)
# It logs exceptions that are logged or shown anyway.
logging.getLogger("starlette_admin").setLevel(logging.CRITICAL)

# Nothing comes from other sites, and no other site can show the page in a frame.
CONTENT_SECURITY_POLICY = "default-src 'self' 'unsafe-inline' data:; frame-ancestors 'none'"
DETAIL = ("id", "owner_id", "schedule", "worker", "due_at", "started_at", "finished_at")
Change = Callable[[Session, str], object]
# No font from another site; words instead of crosses and "-null-".
{% raw %}
TEMPLATES = {
    "base.html": '{% extends "@core/base.html" %}{% block fonts %}{% endblock %}',
    "fields/list/boolean.html": '{{ "yes" if data else "no" }}',
    "fields/detail/_null.html": "",
    "long.html": '<div class="text-wrap text-break" style="min-width: 15em">{{ data }}</div>',
}
{% endraw %}
pool = ThreadPoolExecutor(2)  # For hashing, which takes 19 MiB in each thread, and a core.


class AdminLogin(AuthProvider):
    """A login of the API, whose refresh token is in the session's cookie: both end together."""

    async def login(self, username: str, password: str, _remember: bool, request: Request) -> None:
        """Log in as ``POST /auth/token`` does, with the same limits."""
        loop = asyncio.get_running_loop()
        try:
            form = LoginForm(username=username, password=password)
            tokens = await loop.run_in_executor(pool, login, request.state.session, form, request)
        except HTTPException as error:
            raise LoginFailed(error.detail) from None
        except ValidationError:
            raise LoginFailed("Wrong email address or password") from None
        request.session["token"] = tokens.refresh_token
        if await self.authenticate(request) is None:
            request.session.clear()
            raise LoginFailed("This user is not an administrator")

    async def authenticate(self, request: Request) -> AdminUser | None:
        """Return the user, read from the database at every request."""
        if not (token := request.session.get("token")):
            return None
        is_current = RefreshToken.used_at.is_(None), RefreshToken.expires_at > utc_now()
        query = select(User).join(RefreshToken).where(RefreshToken.token_hash == hash_token(token))
        user = await to_thread.run_sync(request.state.session.scalar, query.where(*is_current))
        return AdminUser(user.email) if user and user.is_admin else None

    async def logout(self, request: Request) -> None:
        """End the login, here and in the database."""
        token = request.session.pop("token", "")
        await to_thread.run_sync(auth.log_out, request.state.session, token)


class ReadOnlyView(ModelView):
    """A list that only its own actions change. It shows nothing but ``fields``."""

    fields: Sequence[Any] = ()
    actions: Sequence[str] | None = ()
    row_actions: Sequence[str] | None = ()
    page_size = 25

    def can_create(self, request: Request) -> bool:
        """Forbid it."""
        return False

    can_edit = can_delete = can_export = can_import = can_create


async def change(request: Request, done: str, function: Change, *keys: str) -> None:
    """Call a function of ``app.jobs`` with each key, in the request's transaction."""
    try:
        for key in keys:
            await to_thread.run_sync(function, request.state.session, key)
    except (jobs.JobNotFoundError, jobs.JobStateError) as error:
        raise ActionFailed(str(error)) from None
    log.info("admin action", done=done, keys=keys, user=request.state.admin_user.username)
    flash(request, done, "success")


def change_action(name: str, function: Change, done: str, icon: str, ask: str | None = None) -> Any:
    """Return a row action that changes one job or entry of the schedule."""

    @row_action(name, name.capitalize(), confirmation=ask, icon_class=f"fa fa-{icon}")
    async def handler(_view: ModelView, request: Request, pk: str) -> None:
        await change(request, done, function, pk)

    return handler


class LongText(TextAreaField):
    """A text or JSON, cut. ``python -m app.jobs show`` prints all of it."""

    async def serialize_value(self, request: Request, value: Any) -> str:
        """Return the beginning; in a list a short one."""
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        length = 200 if request.state.action == RequestAction.LIST else 10_000
        return text if len(text) <= length else f"{text[:length]} … ({len(text)} characters)"


class JobView(ReadOnlyView):
    """Jobs, newest first."""

    fields = (
        EnumField("status", enum=JobStatus),
        *("task", "attempts", "created_at"),
        LongText("result", list_template="long.html"),
        *(LongText("args"), LongText("kwargs"), *DETAIL, "request_id"),
    )
    exclude_fields_from_list = ("args", "kwargs", *DETAIL, "request_id")
    fields_default_sort = (("created_at", True),)
    sortable_fields = ("created_at",)
    actions = ("retry",)
    row_actions = ("view", "retry", "cancel")

    def get_search_query(self, request: Request, term: str) -> ColumnElement[bool]:
        """Search ids, names, results and errors."""
        columns = (Job.id, Job.task, Job.schedule, cast(Job.result, String))
        return or_(*(column.icontains(term, autoescape=True) for column in columns))

    async def is_row_action_allowed_for_obj(self, request: Request, name: str, obj: Job) -> bool:
        """Offer what the state of the job allows."""
        can_retry = obj.status in (JobStatus.FAILURE, JobStatus.REVOKED)
        can_cancel = obj.status in (*WAITING, *RUNNING)
        return {"retry": can_retry, "cancel": can_cancel}.get(name, True)

    retry = change_action("retry", jobs.retry_job, "Queued again", "rotate-right")
    cancel = change_action("cancel", jobs.cancel_job, "Cancelled", "ban", "Cancel this job?")

    @action("retry", "Retry", confirmation="Queue the selected jobs again?")
    async def retry_selected(self, request: Request, selection: ActionSelection) -> None:
        """Queue all selected jobs again."""
        await change(request, "Queued again", jobs.retry_job, *await selection.pks())


class ScheduleView(ReadOnlyView):
    """The entries of the schedule that beat has seen, and ``beat``: its own last pass."""

    fields = ("name", "last_run_at", "last_success_at", "is_paused")
    row_actions = ("run", "pause", "resume")
    run = change_action("run", jobs.run_schedule, "Queued", "play", "Run it now?")
    pause = change_action("pause", jobs.pause_schedule, "Paused", "pause")
    resume = change_action("resume", jobs.resume_schedule, "Resumed", "forward")


class UserView(ReadOnlyView):
    """Users, without their passwords."""

    fields = ("id", "email", "created_at", "is_admin")


async def protect(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Refuse what pages of other sites send, and answer 503 while the database is down."""
    # The CSRF token is not enough: a sibling subdomain can set its cookie.
    host = f"//{request.url.netloc}"
    is_own = request.headers.get("Origin", host).endswith((host, "null"))
    is_own &= request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    if request.method == "POST" and not is_own:
        return PlainTextResponse("A page of another site has sent this request", 403)
    try:
        response = await call_next(request)
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        return await database_failed(request, error)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    if request.url.path.startswith("/admin/static/"):
        response.headers["Cache-Control"] = "private, max-age=3600"
    return response


def add_admin(app: FastAPI) -> None:
    """Mount the admin page. Forms and actions are POST requests with a CSRF token."""
    admin = Admin(
        get_engine(),
        title=app.title,
        secret_key=settings.app.SECRET_KEY,
        auth_provider=AdminLogin(),
        additional_loaders=[DictLoader(TEMPLATES)],
    )
    admin.add_view(JobView(Job, icon="fa fa-list-check"))
    admin.add_link(Link("Failed", "fa fa-bug", "/admin/job/list?filter=status__in=FAILURE"))
    admin.add_view(ScheduleView(ScheduleState, icon="fa fa-clock", menu_label="Schedule"))
    admin.add_view(UserView(User, icon="fa fa-users"))
    app.add_route("/admin/", lambda _request: RedirectResponse("/admin/job/list"))
    admin.mount_to(app)
    admin.app.add_middleware(BaseHTTPMiddleware, dispatch=protect)
    admin.app.add_middleware(
        SessionMiddleware,
        secret_key=settings.app.SECRET_KEY,
        session_cookie="admin_session",
        max_age=12 * 60 * 60,
        https_only=settings.app.ENVIRONMENT != "development",
    )
