"""Example tasks: a plain one, one with the database, an idempotent one, one that is retried."""

import secrets
from typing import Any

import structlog
from celery import Task
from sqlalchemy import func, select

from app.core.celery import celery_app, with_db_init
from app.core.database import session_scope
from app.core.security import utc_now
from app.models import RefreshToken, User

log = structlog.get_logger(__name__)


@celery_app.task
def send_notification(user_id: int, message: str) -> dict[str, Any]:
    """Pretend to send a message to a user."""
    log.info("notification sent", user_id=user_id, length=len(message))
    return {"status": "sent", "user_id": user_id}


@celery_app.task
@with_db_init
def process_user_data(user_id: int) -> dict[str, Any]:
    """Count the refresh tokens of a user that can still be used."""
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


@celery_app.task(bind=True)
@with_db_init
def invite_user(self: Task[..., Any], email: str) -> dict[str, Any]:
    """Create an account and pretend to send an invitation. Running it twice has one effect.

    In the database, a unique key makes a second attempt find the work of the first one. Other
    services get the id of the job as idempotency key: it is the same for all attempts.
    """
    with session_scope() as session:
        user = session.scalar(select(User).where(User.email == email))
        if user is None:
            user = User(email=email, password_hash=f"invited {secrets.token_hex(16)}")
            session.add(user)
            session.flush()
        user_id = user.id
    log.info("invitation sent", user_id=user_id, idempotency_key=self.request.id)
    return {"status": "invited", "user_id": user_id}


@celery_app.task(
    bind=True,
    autoretry_for=(Exception,),
    max_retries=3,
    retry_backoff=True,
    retry_jitter=True,
)
def unreliable_task(self: Task[..., Any], data: dict[str, Any]) -> dict[str, Any]:
    """Fail as often as ``data["failures"]`` says, then succeed.

    Retried up to 3 times, after about 1, 2 and 4 seconds. The jitter spreads the retries of tasks
    that failed at the same time.
    """
    attempt = self.request.retries + 1
    if attempt <= data.get("failures", 0):
        raise ConnectionError(f"attempt {attempt} failed")
    return {"status": "done", "attempts": attempt}
