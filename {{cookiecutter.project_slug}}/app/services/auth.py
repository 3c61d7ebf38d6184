"""Registration, login and refresh tokens."""

import secrets
from datetime import timedelta
from uuid import uuid4

import structlog
from email_validator import validate_email
from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.config.settings import settings
from app.core.security import DUMMY_HASH, create_access_token, hash_token, password_hasher, utc_now
{% if cookiecutter.use_celery %}
from app.jobs import delete_jobs
{% endif %}
from app.models import RefreshToken, User

log = structlog.get_logger(__name__)

# A refresh token may be sent again for this long, in case the first answer was lost.
GRACE = timedelta(seconds=10)


class EmailTakenError(ValueError):
    """The email address is registered already."""


class WrongPasswordError(Exception):
    """The email address or the password is wrong."""


def normalize_email(address: str) -> str:
    """Return the form in which an email address is stored and looked up. Raises ValueError."""
    return validate_email(address.strip(), check_deliverability=False).normalized.lower()


def register(session: Session, email: str, password: str) -> User:
    """Store a new user. Raises EmailTakenError."""
    user = User(email=email, password_hash=password_hasher.hash(password))
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise EmailTakenError(f"{email} is registered already") from None
    return user


def log_in(session: Session, email: str, password: str) -> tuple[str, str]:
    """Return an access token and the first refresh token. Raises WrongPasswordError."""
    user = session.scalar(select(User).where(User.email == email))
    stored_hash = user.password_hash if user else DUMMY_HASH
    valid, new_hash = password_hasher.verify_and_update(password, stored_hash)
    if user is None or not valid:
        raise WrongPasswordError
    _replace_hash(session, user, new_hash or stored_hash)
{% if not cookiecutter.use_celery %}
    delete_expired_tokens(session)
{% endif %}
    return create_access_token(user.id), _add_refresh_token(session, user.id, str(uuid4()))


def change_password(session: Session, user: User, password: str, new: str) -> None:
    """Change the password and end all logins of the user. Raises WrongPasswordError."""
    if not password_hasher.verify(password, user.password_hash):
        raise WrongPasswordError
    set_password(session, user, new)


def set_password(session: Session, user: User, password: str) -> None:
    """Set a password and end all logins of the user."""
    _replace_hash(session, user, password_hasher.hash(password))
    log_out_everywhere(session, user)


def get_user(session: Session, email: str) -> User:
    """Return the user with an email address. Raises ValueError."""
    user = session.scalar(select(User).where(User.email == normalize_email(email)))
    if user is None:
        raise ValueError(f"There is no user {email}")
    return user


def delete_user(session: Session, user: User) -> None:
    """Delete a user with their logins{{ " and jobs" if cookiecutter.use_celery }}."""
    log_out_everywhere(session, user)
{% if cookiecutter.use_celery %}
    delete_jobs(session, owner_id=user.id)
{% endif %}
    session.delete(user)


def rotate_tokens(session: Session, token: str) -> tuple[str, str] | None:
    """Return a new access and refresh token, or None. A used token ends the login as stolen."""
    now, is_token = utc_now(), RefreshToken.token_hash == hash_token(token)
    _lock_logins(session, session.scalar(select(RefreshToken.user_id).where(is_token)))
    used = session.scalar(select(RefreshToken).where(is_token))
    if used is None or used.expires_at <= now:
        return None
    if used.used_at and used.used_at + GRACE < now:
        log.warning("refresh token reuse, the login was ended", user_id=used.user_id)
        session.execute(delete(RefreshToken).where(RefreshToken.family == used.family))
        return None
    used.used_at = used.used_at or now
    return create_access_token(used.user_id), _add_refresh_token(session, used.user_id, used.family)


def log_out(session: Session, token: str) -> None:
    """End the login of a refresh token. An unknown token is ignored."""
    used = session.scalar(select(RefreshToken).where(RefreshToken.token_hash == hash_token(token)))
    if used:
        _lock_logins(session, used.user_id)
        session.execute(delete(RefreshToken).where(RefreshToken.family == used.family))


def log_out_everywhere(session: Session, user: User) -> None:
    """End all logins of a user."""
    _lock_logins(session, user.id)
    session.execute(delete(RefreshToken).where(RefreshToken.user_id == user.id))


def delete_expired_tokens(session: Session) -> int:
    """Delete the refresh tokens that have expired and return their number."""
    statement = delete(RefreshToken).where(RefreshToken.expires_at <= utc_now())
    result: CursorResult[object] = session.connection().execute(statement)
    return result.rowcount


def _lock_logins(session: Session, user_id: int | None) -> None:
    """Let other changes of the user's logins wait until this transaction ends."""
    session.execute(update(User).where(User.id == user_id).values(email=User.email))


def _replace_hash(session: Session, user: User, new_hash: str) -> None:
    """Store a hash, provided that the verified one is still current, and lock the logins."""
    is_current = User.id == user.id, User.password_hash == user.password_hash
    statement = update(User).where(*is_current).values(password_hash=new_hash)
    result: CursorResult[object] = session.connection().execute(statement)
    if not result.rowcount:
        raise WrongPasswordError


def _add_refresh_token(session: Session, user_id: int, family: str) -> str:
    token = secrets.token_urlsafe(32)
    expires_at = utc_now() + timedelta(days=settings.app.REFRESH_TOKEN_DAYS)
    values = {"user_id": user_id, "family": family, "token_hash": hash_token(token)}
    session.add(RefreshToken(**values, expires_at=expires_at))
    return token
