"""Users and their tokens."""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import cast

from sqlalchemy import CursorResult, Delete, Update, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.config.settings import settings
from app.core.security import (
    InvalidTokenError,
    create_access_token,
    create_refresh_token,
    hash_refresh_token,
    password_hash,
    utc_now,
)
from app.models import RefreshToken, User


class EmailTakenError(Exception):
    """Somebody has registered with this address."""


@dataclass(frozen=True)
class TokenPair:
    """What a login gives."""

    access_token: str
    refresh_token: str


def register(session: Session, email: str, password: str) -> User:
    """Store a new user.

    Raises:
        EmailTakenError: the address is taken, whatever its case.
    """
    user = User(email=email.lower(), password_hash=password_hash.hash(password))
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise EmailTakenError(email) from None
    return user


def authenticate(session: Session, email: str, password: str) -> User | None:
    """Return the user with this address and password, or None."""
    user = session.scalar(select(User).where(User.email == email.lower()))
    # An unknown address takes as long as a wrong password, so that nobody learns who is here.
    good = password_hash.verify(password, user.password_hash if user else _nobodys_hash())
    return user if good else None


@cache
def _nobodys_hash() -> str:
    return password_hash.hash(secrets.token_urlsafe(32))


def issue_tokens(session: Session, user_id: int, family: str | None = None) -> TokenPair:
    """Store and return a new pair of tokens, in a new family unless one is given."""
{% if not cookiecutter.use_celery %}
    delete_expired_tokens(session)
{% endif %}
    refresh_token = create_refresh_token()
    session.add(
        RefreshToken(
            user_id=user_id,
            token_hash=hash_refresh_token(refresh_token),
            family=family or secrets.token_hex(16),
            expires_at=utc_now() + timedelta(days=settings.app.REFRESH_TOKEN_DAYS),
        )
    )
    return TokenPair(create_access_token(user_id), refresh_token)


def rotate_tokens(session: Session, refresh_token: str) -> TokenPair | None:
    """Use a refresh token up and return a new pair.

    Return None for a token that was used before: it may be stolen, so its whole family is ended.
    (A result, not an error, since the caller must commit that end.)

    Raises:
        InvalidTokenError: the token is unknown or expired.
    """
    token_hash = hash_refresh_token(refresh_token)
    # One statement decides: of two requests with the same token, one finds it unused.
    first_use = _rows(
        session,
        update(RefreshToken)
        .where(
            RefreshToken.token_hash == token_hash,
            RefreshToken.used_at.is_(None),
            RefreshToken.expires_at > utc_now(),
        )
        .values(used_at=utc_now()),
    )
    token = session.scalar(select(RefreshToken).where(RefreshToken.token_hash == token_hash))
    if token is None or token.expires_at <= utc_now():
        raise InvalidTokenError("unknown or expired refresh token")
    if not first_use:
        _end_family(session, token.family)
        return None
    return issue_tokens(session, token.user_id, token.family)


def logout(session: Session, refresh_token: str) -> None:
    """End the token's whole family. An unknown token is as good as logged out."""
    token = session.scalar(
        select(RefreshToken).where(RefreshToken.token_hash == hash_refresh_token(refresh_token))
    )
    if token is not None:
        _end_family(session, token.family)


def delete_expired_tokens(session: Session) -> int:
    """Delete the refresh tokens that have expired and return how many they were."""
    return _rows(session, delete(RefreshToken).where(RefreshToken.expires_at <= utc_now()))


def _end_family(session: Session, family: str) -> None:
    _rows(session, delete(RefreshToken).where(RefreshToken.family == family))


def _rows(session: Session, statement: Update | Delete) -> int:
    """Run a statement and return how many rows it changed."""
    statement = statement.execution_options(synchronize_session=False)
    return cast("CursorResult[object]", session.execute(statement)).rowcount
