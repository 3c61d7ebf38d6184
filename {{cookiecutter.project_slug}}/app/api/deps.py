"""Dependencies of the routes: ``async def`` and free of I/O, so they cost no thread."""

from typing import Annotated

from fastapi import Depends, HTTPException, status
from fastapi.security import OAuth2PasswordBearer

from app.core.security import InvalidTokenError, read_access_token

bearer = OAuth2PasswordBearer(tokenUrl="auth/token")


async def get_current_user_id(token: Annotated[str, Depends(bearer)]) -> int:
    """Return the id of the user that the access token names, or answer 401."""
    try:
        return read_access_token(token)
    except InvalidTokenError:
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            "Not authenticated",
            headers={"WWW-Authenticate": "Bearer"},
        ) from None


CurrentUserId = Annotated[int, Depends(get_current_user_id)]
