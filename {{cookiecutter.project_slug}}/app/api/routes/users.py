"""Users."""

from fastapi import APIRouter, HTTPException, status
from pydantic import BaseModel

from app.api.deps import CurrentUserId
from app.core.database import session_scope
from app.models import User

router = APIRouter(prefix="/users", tags=["users"])


class UserResponse(BaseModel):
    """What a user sees of themselves."""

    id: int
    email: str


@router.get("/me")
def read_me(user_id: CurrentUserId) -> UserResponse:
    """Return the user who asks."""
    with session_scope() as session:
        user = session.get(User, user_id)
        if user is None:  # deleted since the token was made
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "Not authenticated",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return UserResponse(id=user.id, email=user.email)
