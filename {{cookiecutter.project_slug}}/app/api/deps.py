"""Dependencies that routes share."""

from typing import Annotated

from fastapi import Depends, HTTPException, status
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy.orm import Session

from app.core.database import get_session
from app.core.security import InvalidTokenError, read_access_token
from app.models import User

bearer = OAuth2PasswordBearer(tokenUrl="auth/token")

# Committed before the response is sent.
SessionDep = Annotated[Session, Depends(get_session, scope="function")]


def get_current_user(session: SessionDep, token: Annotated[str, Depends(bearer)]) -> User:
    """Return the user that the access token names, or answer 401."""
    try:
        user = session.get(User, read_access_token(token))
    except InvalidTokenError:
        user = None
    if user is None:
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            "Not authenticated",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]
