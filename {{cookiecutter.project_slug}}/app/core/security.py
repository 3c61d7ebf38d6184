"""Passwords, tokens and the current time. Nothing here uses the database."""

import hashlib
import hmac
import secrets
import unicodedata
from datetime import UTC, datetime, timedelta
from functools import cache

import jwt
from email_validator import EmailNotValidError, validate_email
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from zxcvbn import zxcvbn

from app.core.config.settings import settings

ALGORITHM = "HS256"
MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 128
# The smallest memory that OWASP recommends for Argon2id, so that parallel logins need little memory:
# https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id
password_hasher = PasswordHash([Argon2Hasher(memory_cost=19 * 1024, time_cost=2, parallelism=1)])


class InvalidTokenError(Exception):
    """The token is malformed, expired, used or unknown."""


def utc_now() -> datetime:
    """Return the current time in UTC, without a time zone and in whole seconds."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def normalize_email(address: str) -> str:
    """Return the normalized form under which an email address is stored and looked up.

    Raises:
        ValueError: It is not an email address.
    """
    try:
        address = unicodedata.normalize("NFKC", address).strip()
        return validate_email(address, check_deliverability=False).normalized.lower()
    except EmailNotValidError:
        raise ValueError("must be an email address") from None


def check_new_password(password: str) -> str:
    """Return the password, normalized.

    Raises:
        ValueError: It is too short, or among the first 10,000 guesses of an attacker.
    """
    password = unicodedata.normalize("NFKC", password)
    if len(password) < MIN_PASSWORD_LENGTH:
        raise ValueError(f"must have at least {MIN_PASSWORD_LENGTH} characters")
    if zxcvbn(password[:72])["guesses"] < 10_000:
        raise ValueError("is too easy to guess")
    return password


def hash_password(password: str) -> str:
    """Return the Argon2 hash of a password."""
    return password_hasher.hash(unicodedata.normalize("NFKC", password))


def verify_password(password: str, stored_hash: str | None) -> tuple[bool, str | None]:
    """Return whether the password is right, and a new hash if the stored one has old parameters.

    Without a stored hash the answer is no, after the same time as for a wrong password.
    """
    password = unicodedata.normalize("NFKC", password)
    valid, new_hash = password_hasher.verify_and_update(password, stored_hash or dummy_hash())
    return valid and stored_hash is not None, new_hash


@cache
def dummy_hash() -> str:
    """Return the hash of a password that nobody knows."""
    return password_hasher.hash(secrets.token_urlsafe())


def keyed_hash(purpose: str, text: str) -> str:
    """Return an HMAC with ``SECRET_KEY``, in 64 hexadecimal digits."""
    key, message = settings.app.SECRET_KEY.encode(), f"{purpose}:{text}".encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def create_access_token(user_id: int, family: str) -> str:
    """Return a signed token of a user and their login, valid for ``ACCESS_TOKEN_MINUTES``."""
    now = datetime.now(UTC)
    claims = {
        "sub": str(user_id),
        "sid": family,
        "iat": now,
        "exp": now + timedelta(minutes=settings.app.ACCESS_TOKEN_MINUTES),
    }
    return jwt.encode(claims, settings.app.SECRET_KEY, algorithm=ALGORITHM)


def read_access_token(token: str) -> tuple[int, str]:
    """Return the id of the user and the refresh token family of the login.

    Raises:
        InvalidTokenError: The signature, a claim or the time is wrong.
    """
    try:
        claims = jwt.decode(
            token,
            settings.app.SECRET_KEY,
            algorithms=[ALGORITHM],
            options={"require": ["sub", "sid", "exp"]},
        )
        return int(claims["sub"]), str(claims["sid"])
    except (jwt.InvalidTokenError, ValueError) as error:
        raise InvalidTokenError(str(error)) from error


def create_refresh_token() -> str:
    """Return the first refresh token of a login: ``family.secret``, 256 random bits each."""
    return f"{secrets.token_urlsafe(32)}.{secrets.token_urlsafe(32)}"


def refresh_token_family(token: str) -> str:
    """Return the identifier that all refresh tokens of one login share, hashed."""
    return keyed_hash("family", token.partition(".")[0])


def next_refresh_token(token: str) -> str:
    """Return the refresh token that replaces this one.

    It is always the same, so a client that repeats a request gets the same answer.
    """
    return f"{token.partition('.')[0]}.{keyed_hash('next', token)}"


def hash_refresh_token(token: str) -> str:
    """Return the hash under which a refresh token is stored."""
    return keyed_hash("refresh", token)
