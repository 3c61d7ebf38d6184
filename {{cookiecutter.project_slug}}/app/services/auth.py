"""Registration, login and refresh tokens."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import structlog
from sqlalchemy import CursorResult, Delete, Update, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.config.settings import settings
from app.core.database import session_scope
from app.core.security import (
    InvalidTokenError,
    create_access_token,
    create_refresh_token,
    hash_password,
    hash_refresh_token,
    next_refresh_token,
    refresh_token_family,
    utc_now,
    verify_password,
)
from app.models import {% if cookiecutter.use_celery %}Job, {% endif %}RefreshToken, User

log = structlog.get_logger(__name__)


class EmailTakenError(Exception):
    """The email address is registered already."""


class WrongPasswordError(Exception):
    """The email address or the password is wrong."""


@dataclass(frozen=True)
class TokenPair:
    """An access token and the refresh token for the next one."""

    access_token: str
    refresh_token: str


def register(session: Session, email: str, password: str) -> User:
    """Store a new user.

    Raises:
        EmailTakenError: The address is registered already.
    """
    user = User(email=email, password_hash=hash_password(password))
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise EmailTakenError from None
    return user


def log_in(email: str, password: str) -> TokenPair:
    """Start a login and return its first tokens.

    The password is verified between two transactions: it takes too long to keep a connection.

    Raises:
        WrongPasswordError: The address is unknown or the password is wrong.
    """
    with session_scope() as session:
        user = session.scalar(select(User).where(User.email == email))
    valid, new_hash = verify_password(password, user.password_hash if user else None)
    if user is None or not valid:
        raise WrongPasswordError
    with session_scope() as session:
        _replace_password_hash(session, user, new_hash or user.password_hash)
{% if not cookiecutter.use_celery %}
        delete_expired_tokens(session)
{% endif %}
        token = create_refresh_token()
        login = RefreshToken(
            user_id=user.id,
            family=refresh_token_family(token),
            token_hash=hash_refresh_token(token),
            expires_at=_refresh_token_expiry(),
        )
        session.add(login)
        return TokenPair(create_access_token(user.id, login.family), token)


def change_password(session: Session, login: RefreshToken, password: str, new: str) -> None:
    """Change the password of a user and end all their other logins.

    Raises:
        WrongPasswordError: The current password is wrong.
    """
    if not verify_password(password, login.user.password_hash)[0]:
        raise WrongPasswordError
    _replace_password_hash(session, login.user, hash_password(new))
    others = RefreshToken.user_id == login.user_id, RefreshToken.id != login.id
    _execute(session, delete(RefreshToken).where(*others))


def rotate_tokens(refresh_token: str) -> TokenPair:
    """Replace a refresh token and return a new pair.

    A token that was replaced before may be stolen, so it ends the login. Within
    ``REFRESH_TOKEN_GRACE_SECONDS`` it is taken for a repeated request and gets the same successor.

    Raises:
        InvalidTokenError: The token is unknown or expired, or was replaced before.
    """
    now, token_hash = utc_now(), hash_refresh_token(refresh_token)
    family = RefreshToken.family == refresh_token_family(refresh_token)
    successor = next_refresh_token(refresh_token)
    with session_scope() as session:
        # A single statement decides which one of several concurrent requests replaces the token.
        rotated = _execute(
            session,
            update(RefreshToken)
            .where(family, RefreshToken.token_hash == token_hash, RefreshToken.expires_at > now)
            .values(
                token_hash=hash_refresh_token(successor),
                previous_hash=token_hash,
                rotated_at=now,
                expires_at=_refresh_token_expiry(),
            ),
        )
        login = session.scalar(select(RefreshToken).where(family))
        if login and (rotated or _is_repeated(login, token_hash)):
            return TokenPair(create_access_token(login.user_id, login.family), successor)
        if login and login.expires_at > now:
            log.warning("refresh token reuse, the login was ended", user_id=login.user_id)
            _execute(session, delete(RefreshToken).where(family))
    raise InvalidTokenError("unknown, expired or replaced refresh token")


def log_out(session: Session, refresh_token: str) -> None:
    """End the login of a refresh token. An unknown token is ignored."""
    family = refresh_token_family(refresh_token)
    _execute(session, delete(RefreshToken).where(RefreshToken.family == family))


def log_out_everywhere(session: Session, user: User) -> None:
    """End all logins of a user."""
    _execute(session, delete(RefreshToken).where(RefreshToken.user_id == user.id))


def delete_user(session: Session, user: User) -> None:
    """Delete a user with their logins{% if cookiecutter.use_celery %} and jobs{% endif %}."""
    log_out_everywhere(session, user)
{% if cookiecutter.use_celery %}
    _execute(session, delete(Job).where(Job.owner_id == user.id))
{% endif %}
    session.delete(user)


def delete_expired_tokens(session: Session) -> int:
    """Delete the refresh tokens that have expired and return their number."""
    return _execute(session, delete(RefreshToken).where(RefreshToken.expires_at <= utc_now()))


def _refresh_token_expiry() -> datetime:
    return utc_now() + timedelta(days=settings.app.REFRESH_TOKEN_DAYS)


def _is_repeated(login: RefreshToken, token_hash: str) -> bool:
    """Return whether the token was replaced by the current one just now."""
    grace = timedelta(seconds=settings.app.REFRESH_TOKEN_GRACE_SECONDS)
    return (
        login.previous_hash == token_hash
        and login.rotated_at is not None
        and utc_now() < login.rotated_at + grace
    )


def _replace_password_hash(session: Session, user: User, new_hash: str) -> None:
    """Store a hash, provided that the password that was verified is still the current one.

    It is the first statement of its transaction and locks the user: a login with the old password
    either comes before a password change, which then ends it, or fails.
    """
    verified = User.id == user.id, User.password_hash == user.password_hash
    if not _execute(session, update(User).where(*verified).values(password_hash=new_hash)):
        raise WrongPasswordError


def _execute(session: Session, statement: Update | Delete) -> int:
    """Execute a statement and return the number of rows that it matched."""
    statement = statement.execution_options(synchronize_session=False)
    return cast("CursorResult[object]", session.execute(statement)).rowcount
