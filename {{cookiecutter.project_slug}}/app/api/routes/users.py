"""The current user."""

from fastapi import APIRouter, HTTPException, status
from pydantic import BaseModel

from app.api.deps import CurrentLogin, CurrentUser, LimitPasswordHashing, SessionDep
from app.api.errors import errors
from app.api.routes.auth import NewPassword, Password, UserResponse
from app.core.rate_limit import logins
from app.services import auth

router = APIRouter(prefix="/users", tags=["users"], responses=errors(401))


class PasswordChange(BaseModel):
    """The current password and the new one."""

    current_password: Password
    new_password: NewPassword


@router.get("/me")
async def read_me(user: CurrentUser) -> UserResponse:
    """Return the current user."""
    return UserResponse.model_validate(user)


@router.post(
    "/me/password",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=errors(403, 429),
    dependencies=[LimitPasswordHashing],
)
def change_password(session: SessionDep, login: CurrentLogin, body: PasswordChange) -> None:
    """Change the password and end all other logins of the user."""
    logins.hit(login.user.email)
    try:
        auth.change_password(session, login, body.current_password, body.new_password)
    except auth.WrongPasswordError:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "The current password is wrong") from None
    logins.clear(login.user.email)
