"""Example tasks: a plain one, with the database, with an effect that comes once, with retries."""

from typing import Any

import structlog
from celery import Task
from sqlalchemy import func, select

from app.core.celery import DatabaseUnavailableError, celery_app, with_db_init
from app.core.database import session_scope
from app.core.idempotency import once
from app.core.security import utc_now
from app.models import RefreshToken, User

log = structlog.get_logger(__name__)


@celery_app.task
def send_notification(user_id: int, message: str) -> dict[str, Any]:
    """Pretend to send a message to a user."""
    log.info("notification sent", user_id=user_id, length=len(message))
    return {"status": "sent", "user_id": user_id}


@celery_app.task(
    autoretry_for=(DatabaseUnavailableError,), max_retries=8, retry_backoff=2, retry_backoff_max=300
)
@with_db_init
def process_user_data(user_id: int) -> dict[str, Any]:
    """Count a user's logins that are still good."""
    with session_scope() as session:
        if session.get(User, user_id) is None:
            raise LookupError(f"there is no user {user_id}")
        active = session.scalar(
            select(func.count())
            .select_from(RefreshToken)
            .where(
                RefreshToken.user_id == user_id,
                RefreshToken.used_at.is_(None),
                RefreshToken.expires_at > utc_now(),
            )
        )
    return {"status": "processed", "user_id": user_id, "active_logins": active}


@celery_app.task
@once("order_id")
def send_receipt(order_id: int) -> dict[str, Any]:
    """Pretend to mail a receipt: once for each order, however often the task is queued or run."""
    log.info("receipt sent", order_id=order_id)
    return {"status": "sent", "order_id": order_id}


@celery_app.task(
    bind=True,
    autoretry_for=(Exception,),
    max_retries=3,
    retry_backoff=True,
    retry_jitter=True,
)
def unreliable_task(self: Task[..., Any], data: dict[str, Any]) -> dict[str, Any]:
    """Fail as often as ``data["failures"]`` says, then succeed.

    Retried up to 3 times, after about 1, 2 and 4 seconds. The jitter keeps many that failed
    together from coming back together.
    """
    attempt = self.request.retries + 1
    if attempt <= data.get("failures", 0):
        raise ConnectionError(f"attempt {attempt} failed")
    return {"status": "done", "attempts": attempt}
