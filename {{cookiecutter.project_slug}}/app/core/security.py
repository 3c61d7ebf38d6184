"""Passwords, tokens and the time: nothing here touches the database."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

import jwt
from pwdlib import PasswordHash

from app.core.config.settings import settings

ALGORITHM = "HS256"
# Argon2id: https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html
password_hash = PasswordHash.recommended()


class InvalidTokenError(Exception):
    """A token that is malformed, expired, used up or unknown."""


def utc_now() -> datetime:
    """Return the time in UTC without a zone, as all three databases store it."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def create_access_token(user_id: int) -> str:
    """Return a signed token that names the user for ``ACCESS_TOKEN_MINUTES``."""
    now = datetime.now(UTC)
    claims = {
        "sub": str(user_id),
        "iat": now,
        "exp": now + timedelta(minutes=settings.app.ACCESS_TOKEN_MINUTES),
    }
    return jwt.encode(claims, settings.app.SECRET_KEY, algorithm=ALGORITHM)


def read_access_token(token: str) -> int:
    """Return the user's id from a token.

    Raises:
        InvalidTokenError: the signature, the form or the time is wrong.
    """
    try:
        claims = jwt.decode(
            token,
            settings.app.SECRET_KEY,
            algorithms=[ALGORITHM],
            options={"require": ["sub", "exp"]},
        )
        return int(claims["sub"])
    except (jwt.InvalidTokenError, ValueError) as error:
        raise InvalidTokenError(str(error)) from error


def create_refresh_token() -> str:
    """Return a random refresh token of 256 bits."""
    return secrets.token_urlsafe(32)


def hash_refresh_token(token: str) -> str:
    """Return what is stored of a refresh token: SHA-256 is enough for 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()
