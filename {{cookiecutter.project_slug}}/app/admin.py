"""The admin page, ``/admin``: jobs, the schedule and users, for users with ``is_admin``.

It reads the database, so it survives restarts. https://jowilf.github.io/starlette-admin/
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool
from jinja2 import DictLoader
from pydantic import ValidationError
from sqlalchemy import ColumnElement, Select, String, cast, or_
from sqlalchemy.orm import Session
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette_admin import CustomView, EnumField, action, flash, row_action
from starlette_admin.actions import ActionSelection
from starlette_admin.auth import AdminUser, AuthProvider, LoginFailed
from starlette_admin.contrib.sqla import Admin, ModelView
from starlette_admin.exceptions import ActionFailed
from starlette_admin.routing import route

from app.api.routes.auth import LoginForm, login
from app.core.config.settings import settings
from app.core.database import get_engine
from app.jobs import (
    JobNotFoundError,
    JobStateError,
    cancel_job,
    pause_schedule,
    resume_schedule,
    retry_job,
    run_schedule,
)
from app.models import Job, JobStatus, ScheduleState, User
from app.models.job import RUNNING, WAITING
from app.services import auth

log = structlog.get_logger(__name__)

logging.getLogger("starlette_admin").setLevel(logging.WARNING)

IDLE_SECONDS = 12 * 60 * 60
# The columns of a job that only its own page shows.
DETAIL = ("due_at", "started_at", "finished_at", "worker", "request_id", "args", "kwargs", "result")
# Without the font that the library's own template loads from another site.
{% raw %}
TEMPLATES = {"base.html": '{% extends "@core/base.html" %}{% block fonts %}{% endblock %}'}
{% endraw %}
hashing_slots = CapacityLimiter(2)  # Each takes 19 MiB and a core.


class AdminLogin(AuthProvider):
    """A login like those of the API, with its refresh token in the cookie, signed.

    So a password change, ``logout-everywhere`` and the deletion of the user end it.
    """

    async def login(
        self, username: str, password: str, remember_me: bool, request: Request
    ) -> None:
        """Log in as ``POST /auth/token`` does, with the same limits."""
        try:
            form = LoginForm(username=username, password=password)
            tokens = await to_thread.run_sync(
                login, request.state.session, form, request, limiter=hashing_slots
            )
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
        user = await run_in_threadpool(auth.find_user, request.state.session, token)
        return AdminUser(user.email) if user and user.is_admin else None

    async def logout(self, request: Request) -> None:
        """End the login, here and in the database."""
        token = request.session.pop("token", "")
        await run_in_threadpool(auth.log_out, request.state.session, token)


class ReadOnlyView(ModelView):
    """A list that only the view's own actions change. Nothing shows what is not in ``fields``."""

    fields: Sequence[Any] = ()
    actions: Sequence[str] | None = ()
    row_actions: Sequence[str] | None = ()
    page_size = 25

    def can_create(self, request: Request) -> bool:
        """Forbid it."""
        return False

    can_edit = can_delete = can_export = can_import = can_view_detail = can_create

    async def change(
        self, request: Request, done: str, function: Callable[[Session, str], object], *keys: str
    ) -> None:
        """Call a function of ``app.jobs`` with each key, in the request's transaction."""
        try:
            for key in keys:
                await run_in_threadpool(function, request.state.session, key)
        except (JobNotFoundError, JobStateError) as error:
            raise ActionFailed(str(error)) from None
        log.info("admin action", done=done, keys=keys, user=request.state.admin_user.username)
        flash(request, done, "success")


class JobView(ReadOnlyView):
    """Jobs, newest first."""

    fields = (
        "created_at",
        "task",
        EnumField("status", enum=JobStatus),
        "attempts",
        "schedule",
        "owner_id",
        "id",
        *DETAIL,
    )
    exclude_fields_from_list = DETAIL
    fields_default_sort = (("created_at", True),)
    sortable_fields = ("created_at",)
    actions = ("retry",)
    row_actions = ("view", "retry", "cancel")

    def can_view_detail(self, request: Request) -> bool:
        """Allow it: arguments and results are not in the list."""
        return True

    def get_search_query(self, request: Request, term: str) -> ColumnElement[bool]:
        """Search ids, names of tasks, results and errors."""
        columns = (Job.id, Job.task, cast(Job.result, String))
        return or_(*(column.icontains(term, autoescape=True) for column in columns))

    async def is_row_action_allowed_for_obj(self, request: Request, name: str, obj: Job) -> bool:
        """Offer what the state of the job allows."""
        can_retry = obj.status in (JobStatus.FAILURE, JobStatus.REVOKED)
        can_cancel = obj.status in (*WAITING, *RUNNING)
        return {"retry": can_retry, "cancel": can_cancel}.get(name, True)

    @row_action("retry", "Retry", icon_class="fa fa-rotate-right")
    async def retry(self, request: Request, pk: str) -> None:
        """Queue the job again."""
        await self.change(request, "Queued again", retry_job, pk)

    @row_action("cancel", "Cancel", confirmation="Cancel this job?", icon_class="fa fa-ban")
    async def cancel(self, request: Request, pk: str) -> None:
        """Cancel the job, waiting or running."""
        await self.change(request, "Cancelled", cancel_job, pk)

    @action("retry", "Retry", confirmation="Queue the selected jobs again?")
    async def retry_selected(self, request: Request, selection: ActionSelection) -> None:
        """Queue all selected jobs again."""
        await self.change(request, "Queued again", retry_job, *await selection.pks())


class ScheduleView(ReadOnlyView):
    """The entries of the schedule that beat has seen."""

    fields = ("name", "last_run_at", "last_success_at", "is_paused")
    row_actions = ("run", "pause", "resume")

    def get_list_query(self, request: Request) -> Select[Any]:
        """Leave out beat's own row."""
        return super().get_list_query(request).where(ScheduleState.name != "beat")

    def get_count_query(self, request: Request) -> Select[Any]:
        """Count what ``get_list_query`` selects."""
        return super().get_count_query(request).where(ScheduleState.name != "beat")

    async def is_row_action_allowed_for_obj(
        self, request: Request, name: str, obj: ScheduleState
    ) -> bool:
        """Offer either pause or resume."""
        return name != ("resume" if not obj.is_paused else "pause")

    @row_action("run", "Run now", confirmation="Run it now?", icon_class="fa fa-play")
    async def run(self, request: Request, pk: str) -> None:
        """Queue a run, at once."""
        await self.change(request, "Queued", run_schedule, pk)

    @row_action("pause", "Pause", icon_class="fa fa-pause")
    async def pause(self, request: Request, pk: str) -> None:
        """Queue no runs until it is resumed."""
        await self.change(request, "Paused", pause_schedule, pk)

    @row_action("resume", "Resume", icon_class="fa fa-forward")
    async def resume(self, request: Request, pk: str) -> None:
        """Queue runs again."""
        await self.change(request, "Resumed", resume_schedule, pk)


class UserView(ReadOnlyView):
    """Users, without their passwords."""

    fields = ("id", "email", "created_at", "is_admin")
    searchable_fields = ("email", "is_admin", "created_at")


class StartPage(CustomView):
    """Shows the jobs."""

    add_to_menu = False

    @route("")
    async def index(self, request: Request) -> Response:
        """Redirect to the list of jobs."""
        return RedirectResponse(request.url_for("admin:list", key="job"))


def add_admin(app: FastAPI) -> None:
    """Mount the admin page. Forms and actions are POST requests with a CSRF token."""
    cookie = Middleware(
        SessionMiddleware,
        secret_key=settings.app.SECRET_KEY,
        session_cookie="admin_session",
        max_age=IDLE_SECONDS,
        same_site="lax",
        https_only=settings.app.ENVIRONMENT != "development",
    )
    admin = Admin(
        get_engine(),
        title=app.title,
        secret_key=settings.app.SECRET_KEY,
        auth_provider=AdminLogin(),
        index_view=StartPage(route_name="index"),
        additional_loaders=[DictLoader(TEMPLATES)],
        middlewares=[cookie],
    )
    admin.add_view(JobView(Job, icon="fa fa-list-check"))
    admin.add_view(ScheduleView(ScheduleState, icon="fa fa-clock", menu_label="Schedule"))
    admin.add_view(UserView(User, icon="fa fa-users"))
    admin.mount_to(app)
