"""Jobs: queue a notification, ask for a task's state, revoke it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI, HTTPException, Query, status
from pydantic import BaseModel

from app.api.deps import CurrentUserId
from app.services.jobs import (
    Job,
    QueueUnavailableError,
    UnknownJobError,
    enqueue,
    get_job,
    publisher,
    revoke_job,
)
from app.tasks.example_task import send_notification


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Nothing is connected at start; what was connected meanwhile is closed at the end."""
    yield
    await publisher.close()


router = APIRouter(tags=["tasks"], lifespan=lifespan)

# A limit in seconds, and threads of their own: while Redis hangs, no other request waits for it.
TIMEOUT = 2.5
_threads = CapacityLimiter(40)

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
    queued = enqueue(send_notification, current_user_id, user_id=user_id, message=message)
    return QueuedTask(task_id=await _in_time(queued))


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
    return await _in_time(to_thread.run_sync(call, limiter=_threads, abandon_on_cancel=True))


async def _in_time(answer: Awaitable[T]) -> T:
    try:
        with anyio.fail_after(TIMEOUT):
            return await answer
    except UnknownJobError:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no such task") from None
    except (QueueUnavailableError, TimeoutError):
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            "The task queue is unavailable, try again later",
            headers={"Retry-After": "5"},
        ) from None
