"""Jobs: queue a notification; list, read, cancel and retry the user's jobs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, FastAPI, HTTPException, Query, status
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.api.deps import CurrentUser, SessionDep
from app.api.errors import errors
from app.core.config.settings import settings
from app.jobs import (
    JobNotFoundError,
    JobStateError,
    JobStatus,
    cancel_job,
    close_publisher,
    count_waiting_jobs,
    enqueue,
    get_job,
    list_jobs,
    retry_job,
)
from app.tasks.example_task import send_notification


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Stop publishing when the application stops. The dispatcher sends what was not sent."""
    yield
    await to_thread.run_sync(close_publisher)


router = APIRouter(tags=["tasks"], lifespan=lifespan)


# Times are stored without a time zone.
UtcTime = Annotated[datetime, AfterValidator(lambda time: time.replace(tzinfo=UTC))]


class QueuedTask(BaseModel):
    """A task that was queued."""

    task_id: str
    status: Literal["queued"] = "queued"


class TaskState(BaseModel):
    """The state of a task.

    ``result`` is the return value, the error as text, or, while the task runs, its progress.
    """

    model_config = ConfigDict(from_attributes=True)

    task_id: str = Field(validation_alias="id")
    status: JobStatus
    result: Any


class TaskSummary(TaskState):
    """A task in a list."""

    task: str
    attempts: int
    created_at: UtcTime
    started_at: UtcTime | None
    finished_at: UtcTime | None


class TaskPage(BaseModel):
    """A page of tasks, newest first. ``next_cursor`` is null on the last page."""

    items: list[TaskSummary]
    next_cursor: str | None


@router.post("/notify", status_code=status.HTTP_202_ACCEPTED, responses=errors(401, 429))
def notify(
    session: SessionDep,
    user: CurrentUser,
    user_id: Annotated[int, Query(ge=1, le=2**31 - 1)],
    message: Annotated[str, Query(min_length=1, max_length=4_000)],
) -> QueuedTask:
    """Queue a notification to a user."""
    limit = settings.celery.JOB_MAX_WAITING_PER_USER
    if count_waiting_jobs(session, user.id, limit) >= limit:
        raise HTTPException(
            status.HTTP_429_TOO_MANY_REQUESTS,
            "Too many tasks are waiting, try again later",
            headers={"Retry-After": "60"},
        )
    job = enqueue(session, send_notification, owner_id=user.id, user_id=user_id, message=message)
    return QueuedTask(task_id=job.id)


@router.get("/tasks", responses=errors(401))
def read_tasks(
    session: SessionDep,
    user: CurrentUser,
    status: JobStatus | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[str | None, Query(max_length=36)] = None,
) -> TaskPage:
    """List the user's tasks, newest first. ``cursor`` is the ``next_cursor`` of the page before."""
    try:
        jobs = list_jobs(session, owner_id=user.id, status=status, before=cursor, limit=limit + 1)
    except JobNotFoundError:
        raise HTTPException(422, "There is no such cursor") from None
    page = jobs[:limit]
    return TaskPage(
        items=[TaskSummary.model_validate(job) for job in page],
        next_cursor=page[-1].id if len(jobs) > limit else None,
    )


@router.get("/task/{task_id}", responses=errors(401, 404))
def read_task(task_id: str, session: SessionDep, user: CurrentUser) -> TaskState:
    """Return the state of a task."""
    try:
        return TaskState.model_validate(get_job(session, task_id, owner_id=user.id))
    except JobNotFoundError:
        raise _not_found() from None


@router.post(
    "/task/{task_id}/retry",
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(401, 404, 409),
)
def retry_task(task_id: str, session: SessionDep, user: CurrentUser) -> TaskState:
    """Queue a failed or cancelled task again."""
    try:
        return TaskState.model_validate(retry_job(session, task_id, owner_id=user.id))
    except JobNotFoundError:
        raise _not_found() from None
    except JobStateError as error:
        raise HTTPException(status.HTTP_409_CONFLICT, str(error)) from None


@router.delete("/task/{task_id}", responses=errors(401, 404))
def cancel_task(task_id: str, session: SessionDep, user: CurrentUser) -> TaskState:
    """Cancel a task, waiting or running. A finished task stays as it is."""
    try:
        return TaskState.model_validate(cancel_job(session, task_id, owner_id=user.id))
    except JobNotFoundError:
        raise _not_found() from None


def _not_found() -> HTTPException:
    return HTTPException(status.HTTP_404_NOT_FOUND, "There is no such task")
