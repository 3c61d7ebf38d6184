"""Registration, login and what keeps a login going.

Every route is a plain ``def``: FastAPI runs it in a thread, so a password hash or a query holds
up nobody else.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, status
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import BaseModel, EmailStr, Field

from app.core.database import session_scope
from app.core.rate_limit import FAILED_LOGINS, count_failed_login, login_is_blocked
from app.core.security import InvalidTokenError
from app.services import auth

router = APIRouter(prefix="/auth", tags=["auth"])


class Registration(BaseModel):
    """Who wants to register."""

    email: EmailStr
    # Longer ones only make the hash slow.
    password: str = Field(min_length=8, max_length=128)


class RegisteredUser(BaseModel):
    """Who has registered."""

    id: int
    email: str


class TokenResponse(BaseModel):
    """A short access token and the refresh token for the next one."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"


class RefreshRequest(BaseModel):
    """The refresh token of a login."""

    refresh_token: str = Field(min_length=1, max_length=256)


@router.post("/register", status_code=status.HTTP_201_CREATED)
def register(registration: Registration) -> RegisteredUser:
    """Register a user. The same address a second time is 409."""
    try:
        with session_scope() as session:
            user = auth.register(session, registration.email, registration.password)
            return RegisteredUser(id=user.id, email=user.email)
    except auth.EmailTakenError:
        raise HTTPException(
            status.HTTP_409_CONFLICT, "This email address is registered already"
        ) from None


@router.post("/token")
def login(request: Request, form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> TokenResponse:
    """Log in with the OAuth2 password flow: the email address is the ``username``."""
    address = request.client.host if request.client else "unknown"
    if login_is_blocked(address, form.username):
        raise HTTPException(
            status.HTTP_429_TOO_MANY_REQUESTS,
            "Too many failed logins, try again in a minute",
            headers={"Retry-After": str(FAILED_LOGINS.get_expiry())},
        )
    with session_scope() as session:
        user = auth.authenticate(session, form.username, form.password)
        if user is not None:
            return _response(auth.issue_tokens(session, user.id))
    count_failed_login(address, form.username)
    raise _unauthorized("Wrong email address or password")


@router.post("/refresh")
def refresh(body: RefreshRequest) -> TokenResponse:
    """Change a refresh token for a new pair. One that was used before ends its whole family."""
    try:
        with session_scope() as session:
            tokens = auth.rotate_tokens(session, body.refresh_token)
    except InvalidTokenError:
        tokens = None
    if tokens is None:
        raise _unauthorized("The refresh token is not valid, log in again")
    return _response(tokens)


@router.post("/logout", status_code=status.HTTP_204_NO_CONTENT)
def logout(body: RefreshRequest) -> None:
    """End the login that this refresh token belongs to."""
    with session_scope() as session:
        auth.logout(session, body.refresh_token)


def _response(tokens: auth.TokenPair) -> TokenResponse:
    return TokenResponse(access_token=tokens.access_token, refresh_token=tokens.refresh_token)


def _unauthorized(detail: str) -> HTTPException:
    return HTTPException(
        status.HTTP_401_UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"}
    )
