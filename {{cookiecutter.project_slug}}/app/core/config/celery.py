"""Settings of Celery, named as the environment variables are.

Not every option of Celery is here: what should be the same in every deployment is in
``app/core/celery.py``.
"""

from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from app.core.config.base import SettingsGroup
from app.core.config.redis import check_redis_url


class CelerySettings(SettingsGroup):
    """The broker, the result backend and what may differ between deployments."""

    CELERY_BROKER_URL: str = "redis://localhost:6379/1"
    CELERY_RESULT_BACKEND: str = "redis://localhost:6379/2"
    # Touched while the worker or beat does its work: see app/core/heartbeat.py.
    CELERY_HEARTBEAT_FILE: Path | None = None
    # Only JSON is accepted from the queue: unpickling a message would run what it says.
    CELERY_TASK_SERIALIZER: Literal["json"] = "json"
    CELERY_RESULT_SERIALIZER: Literal["json"] = "json"
    CELERY_TIMEZONE: str = "UTC"
    CELERY_ENABLE_UTC: bool = True
    CELERY_WORKER_CONCURRENCY: int = Field(default=4, ge=1)

    # The rest is in seconds unless it says otherwise. Of a task: first an exception that it may
    # catch, then the end of its process.
    CELERY_TASK_SOFT_TIME_LIMIT: int = Field(default=5 * 60, ge=1)
    CELERY_TASK_TIME_LIMIT: int = Field(default=6 * 60, ge=1)
    CELERY_RESULT_EXPIRES: int = Field(default=24 * 60 * 60, ge=60)
    # A message whose worker has not been heard for so long goes to another worker.
    CELERY_LOST_WORKER_TIMEOUT: int = Field(default=45, ge=1)
    # A message that a living worker has held for so long was forgotten, and goes back too. Longer
    # than every time limit and countdown, or tasks run twice.
    CELERY_VISIBILITY_TIMEOUT: int = Field(default=12 * 60 * 60, ge=1)
    # After SIGTERM: so long for running tasks to end, then they go back into the queue.
    CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT: float = Field(default=10, ge=0)
    # A process of the pool is replaced after so many tasks, or when it holds so many megabytes.
    CELERY_WORKER_MAX_TASKS_PER_CHILD: int = Field(default=10_000, ge=1)
    CELERY_WORKER_MAX_MEMORY_PER_CHILD_MB: int = Field(default=512, ge=32)
    # Celery's own switch: root may run workers in production.
    C_FORCE_ROOT: bool = False

    @field_validator("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        return check_redis_url(value)

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        if self.CELERY_TASK_SOFT_TIME_LIMIT >= self.CELERY_TASK_TIME_LIMIT:
            raise ValueError("CELERY_TASK_SOFT_TIME_LIMIT must be below CELERY_TASK_TIME_LIMIT")
        return self

    @field_validator("CELERY_TIMEZONE")
    @classmethod
    def _is_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("must be a time zone such as UTC or Europe/Berlin") from None
        return value
