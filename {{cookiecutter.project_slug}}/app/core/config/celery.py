"""Settings of Celery, named as the environment variables are.

Not every option of Celery is here: what should be the same in every deployment is in
``app/core/celery.py``.
"""

from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

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

    @field_validator("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        return check_redis_url(value)

    @field_validator("CELERY_TIMEZONE")
    @classmethod
    def _is_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("must be a time zone such as UTC or Europe/Berlin") from None
        return value
