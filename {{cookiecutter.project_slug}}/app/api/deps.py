"""Dependencies of the routes."""

from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from fastapi import Depends, HTTPException, Request, status
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.config.settings import settings
from app.core.database import get_session
from app.core.rate_limit import network_of
from app.core.security import InvalidTokenError, read_access_token
from app.models import RefreshToken, User

HASHING_TIMEOUT_SECONDS = 10

oauth2_scheme = OAuth2PasswordBearer(tokenUrl="auth/token", refreshUrl="auth/refresh")
password_hashing = anyio.Semaphore(settings.app.PASSWORD_HASH_CONCURRENCY)

# Committed before the response is sent. Requests that wait for a connection occupy no thread.
SessionDep = Annotated[
    Session,
    Depends(get_session, scope="function", max_concurrency=settings.database.DATABASE_POOL_SIZE),
]


def unauthorized(detail: str = "Not authenticated") -> HTTPException:
    """Return a 401 error."""
    return HTTPException(
        status.HTTP_401_UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"}
    )


def get_current_login(
    session: SessionDep, token: Annotated[str, Depends(oauth2_scheme)]
) -> RefreshToken:
    """Return the login that the access token belongs to, or answer 401 when it has ended."""
    try:
        user_id, family = read_access_token(token)
    except InvalidTokenError:
        raise unauthorized() from None
    login = session.scalar(select(RefreshToken).where(RefreshToken.family == family))
    if login is None or login.user_id != user_id:
        raise unauthorized()
    return login


CurrentLogin = Annotated[RefreshToken, Depends(get_current_login)]


async def get_current_user(login: CurrentLogin) -> User:
    """Return the user who is logged in, or answer 401."""
    return login.user


CurrentUser = Annotated[User, Depends(get_current_user)]


async def get_client_address(request: Request) -> str:
    """Return the address of the client, as the rate limits count it."""
    address = request.client.host if request.client else "unknown"
    # By default Uvicorn trusts this header if the client is on the same machine.
    forwarded = request.headers.get("x-forwarded-for", "")
    if address in forwarded and not settings.app.TRUSTED_PROXIES:
        address = "127.0.0.1"
    return network_of(address)


ClientAddress = Annotated[str, Depends(get_client_address)]


async def limit_password_hashing() -> AsyncIterator[None]:
    """Let only a few requests at a time hash passwords, and answer 503 after a long wait."""
    try:
        with anyio.fail_after(HASHING_TIMEOUT_SECONDS):
            await password_hashing.acquire()
    except TimeoutError:
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            "Too many logins at the moment, try again later",
            headers={"Retry-After": "5"},
        ) from None
    try:
        yield
    finally:
        password_hashing.release()


LimitPasswordHashing = Depends(limit_password_hashing, scope="function")
