"""Users."""

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.deps import CurrentUser

router = APIRouter(prefix="/users", tags=["users"])


class UserResponse(BaseModel):
    """What a user sees of themselves."""

    id: int
    email: str


@router.get("/me")
def read_me(user: CurrentUser) -> UserResponse:
    """Return the user who asks."""
    return UserResponse(id=user.id, email=user.email)
