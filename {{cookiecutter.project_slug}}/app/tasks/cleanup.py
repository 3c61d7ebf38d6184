"""Housekeeping."""

from app.core.celery import DatabaseUnavailableError, celery_app, with_db_init
from app.core.database import session_scope
from app.services.auth import delete_expired_tokens


@celery_app.task(
    autoretry_for=(DatabaseUnavailableError,), max_retries=8, retry_backoff=2, retry_backoff_max=300
)
@with_db_init
def cleanup_expired_tokens() -> dict[str, int]:
    """Delete refresh tokens that have expired."""
    with session_scope() as session:
        return {"deleted": delete_expired_tokens(session)}
