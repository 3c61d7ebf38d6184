"""Celery and job settings.

Fields are named after their environment variables. What should be the same in every deployment
is set in ``app/core/celery.py``. Times are in seconds unless the name says otherwise.
"""

from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from app.core.config.base import SettingsGroup
from app.core.config.redis import RedisUrl


class CelerySettings(SettingsGroup):
    """Broker, result backend, workers and jobs."""

    CELERY_BROKER_URL: RedisUrl = "redis://localhost:6379/1"
    CELERY_RESULT_BACKEND: RedisUrl = "redis://localhost:6379/2"
    # Only JSON is accepted, since unpickling a message can execute code.
    CELERY_TASK_SERIALIZER: Literal["json"] = "json"
    CELERY_RESULT_SERIALIZER: Literal["json"] = "json"
    CELERY_TIMEZONE: str = "UTC"
    CELERY_ENABLE_UTC: bool = True
    CELERY_WORKER_CONCURRENCY: int = Field(default=4, ge=1)
    # The soft limit raises SoftTimeLimitExceeded in the task; the hard limit ends its process.
    CELERY_TASK_SOFT_TIME_LIMIT: int = Field(default=5 * 60, ge=1)
    CELERY_TASK_TIME_LIMIT: int = Field(default=6 * 60, ge=1)
    CELERY_RESULT_EXPIRES: int = Field(default=24 * 60 * 60, ge=60)
    # After SIGTERM, running tasks have this long to finish. Jobs that do not are run again.
    CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT: float = Field(default=10, ge=0)
    # A pool process is replaced after this many tasks, or at this size.
    CELERY_WORKER_MAX_TASKS_PER_CHILD: int = Field(default=10_000, ge=1)
    CELERY_WORKER_MAX_MEMORY_PER_CHILD_MB: int = Field(default=512, ge=32)
    # The port of Flower, when started by ``python -m dev``.
    FLOWER_PORT: int = Field(default=5555, ge=1, le=65535)
    # Touched by a healthy worker or beat, for health checks that look at the age of a file.
    CELERY_HEARTBEAT_FILE: Path | None = None

    # An attempt is lost when its process or worker ends in the middle of it. A job that was lost
    # this often fails.
    JOB_MAX_ATTEMPTS: int = Field(default=5, ge=1)
    # Finished jobs are deleted after this many days.
    JOB_RETENTION_DAYS: int = Field(default=30, ge=1, le=36_500)
    # Jobs that one user may have waiting at the same time; more are refused with 429.
    JOB_MAX_WAITING_PER_USER: int = Field(default=1_000, ge=1)

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.CELERY_TASK_SOFT_TIME_LIMIT >= self.CELERY_TASK_TIME_LIMIT:
            raise ValueError("CELERY_TASK_SOFT_TIME_LIMIT must be below CELERY_TASK_TIME_LIMIT")
        return self

    @field_validator("CELERY_TIMEZONE")
    @classmethod
    def _check_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("must be a time zone such as UTC or Europe/Berlin") from None
        return value
