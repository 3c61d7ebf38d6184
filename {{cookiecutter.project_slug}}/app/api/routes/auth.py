"""Registration, login, refresh and logout."""

from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, status
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.api.deps import (
    ClientAddress,
    CurrentUser,
    LimitPasswordHashing,
    SessionDep,
    unauthorized,
)
from app.api.errors import errors
from app.core.config.settings import settings
from app.core.rate_limit import failed_logins, logins, registrations
from app.core.security import (
    MAX_PASSWORD_LENGTH,
    MIN_PASSWORD_LENGTH,
    InvalidTokenError,
    check_new_password,
    normalize_email,
)
from app.services import auth

router = APIRouter(prefix="/auth", tags=["auth"])

Email = Annotated[
    str,
    Field(max_length=254, examples=["ann@example.com"], json_schema_extra={"format": "email"}),
    AfterValidator(normalize_email),
]
Password = Annotated[
    str, Field(max_length=MAX_PASSWORD_LENGTH, json_schema_extra={"format": "password"})
]
NewPassword = Annotated[
    Password,
    Field(min_length=MIN_PASSWORD_LENGTH, examples=["correct horse battery staple"]),
    AfterValidator(check_new_password),
]


class Registration(BaseModel):
    """The account to register."""

    email: Email
    password: NewPassword


class UserResponse(BaseModel):
    """A user."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    email: str


class LoginForm(BaseModel):
    """The form of the OAuth2 password flow. The user name is the email address."""

    grant_type: Literal["password"] | None = None
    username: Email
    password: Password


class TokenResponse(BaseModel):
    """An access token and the refresh token for the next one. ``expires_in`` is in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = settings.app.ACCESS_TOKEN_MINUTES * 60


class RefreshTokenBody(BaseModel):
    """The refresh token of a login."""

    refresh_token: str = Field(min_length=1, max_length=256)


@router.post(
    "/register",
    status_code=status.HTTP_201_CREATED,
    responses=errors(409, 429),
    dependencies=[LimitPasswordHashing],
)
def register(session: SessionDep, account: Registration, address: ClientAddress) -> UserResponse:
    """Register a user."""
    registrations.hit(address)
    try:
        user = auth.register(session, account.email, account.password)
    except auth.EmailTakenError:
        raise HTTPException(
            status.HTTP_409_CONFLICT, "This email address is registered already"
        ) from None
    return UserResponse.model_validate(user)


@router.post("/token", responses=errors(401, 429), dependencies=[LimitPasswordHashing])
def login(form: Annotated[LoginForm, Form()], address: ClientAddress) -> TokenResponse:
    """Log in with the OAuth2 password flow."""
    failed_logins.check(address)
    # Counted before the password is verified, so that parallel attempts cannot exceed the limit.
    logins.hit(form.username)
    try:
        tokens = auth.log_in(form.username, form.password)
    except auth.WrongPasswordError:
        failed_logins.hit(address)
        raise unauthorized("Wrong email address or password") from None
    logins.clear(form.username)
    return _response(tokens)


@router.post("/refresh", responses=errors(401))
def refresh(body: RefreshTokenBody) -> TokenResponse:
    """Replace a refresh token. A token that was replaced before ends the login."""
    try:
        return _response(auth.rotate_tokens(body.refresh_token))
    except InvalidTokenError:
        raise unauthorized("The refresh token is invalid, log in again") from None


@router.post("/logout", status_code=status.HTTP_204_NO_CONTENT)
def logout(session: SessionDep, body: RefreshTokenBody) -> None:
    """End the login of a refresh token."""
    auth.log_out(session, body.refresh_token)


@router.post("/logout-everywhere", status_code=status.HTTP_204_NO_CONTENT, responses=errors(401))
def logout_everywhere(session: SessionDep, user: CurrentUser) -> None:
    """End all logins of the current user, this one too."""
    auth.log_out_everywhere(session, user)


def _response(tokens: auth.TokenPair) -> TokenResponse:
    return TokenResponse(access_token=tokens.access_token, refresh_token=tokens.refresh_token)
