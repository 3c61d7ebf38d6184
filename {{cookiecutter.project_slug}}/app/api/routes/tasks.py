"""Jobs: queue a notification, ask for a task's state, revoke it."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, HTTPException, Query, status
from pydantic import BaseModel

from app.api.deps import CurrentUserId
from app.services.jobs import (
    Job,
    QueueUnavailableError,
    UnknownJobError,
    enqueue,
    get_job,
    revoke_job,
)
from app.tasks.example_task import send_notification

router = APIRouter(tags=["tasks"])

# Threads of their own and a limit in seconds: while Redis hangs, no other request waits for it.
_threads = CapacityLimiter(40)
TIMEOUT = 2.5

T = TypeVar("T")


class QueuedTask(BaseModel):
    """A task that was queued."""

    task_id: str
    status: str = "queued"


class TaskState(BaseModel):
    """A task's state; ``result`` is its progress while it runs and its error when it failed."""

    task_id: str
    status: str
    result: Any


@router.post("/notify", status_code=status.HTTP_202_ACCEPTED)
async def notify(
    current_user_id: CurrentUserId,
    user_id: Annotated[int, Query(ge=1, le=2**31 - 1)],
    message: Annotated[str, Query(min_length=1, max_length=10_000)],
) -> QueuedTask:
    """Queue a notification to a user."""
    task_id = await _in_thread(
        partial(enqueue, send_notification, current_user_id, user_id=user_id, message=message)
    )
    return QueuedTask(task_id=task_id)


@router.get("/task/{task_id}")
async def read_task(task_id: str, current_user_id: CurrentUserId) -> TaskState:
    """Return the state of a task that the user queued."""
    return _state(await _in_thread(partial(get_job, task_id, current_user_id)))


@router.delete("/task/{task_id}")
async def revoke_task(task_id: str, current_user_id: CurrentUserId) -> TaskState:
    """Revoke a task that the user queued. One that is finished stays as it is."""
    return _state(await _in_thread(partial(revoke_job, task_id, current_user_id)))


def _state(job: Job) -> TaskState:
    return TaskState(task_id=job.task_id, status=job.status, result=job.result)


async def _in_thread(call: Callable[[], T]) -> T:
    try:
        with anyio.fail_after(TIMEOUT):
            return await to_thread.run_sync(call, limiter=_threads, abandon_on_cancel=True)
    except UnknownJobError:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no such task") from None
    except (QueueUnavailableError, TimeoutError):
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            "The task queue is unavailable, try again later",
            headers={"Retry-After": "5"},
        ) from None
