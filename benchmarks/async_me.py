"""``GET /users/me`` of a generated project again, with an asynchronous engine and driver."""

from app.api.deps import CurrentUserId
from app.api.routes.users import UserResponse
from app.core.config.settings import settings
from app.main import create_app
from app.models import User
from fastapi import HTTPException
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

engine = create_async_engine(
    settings.database.DATABASE_URL, pool_pre_ping=True, pool_size=15, max_overflow=0
)
session_of = async_sessionmaker(engine, expire_on_commit=False)


async def read_me(user_id: CurrentUserId) -> UserResponse:
    async with session_of() as session, session.begin():
        user = await session.get(User, user_id)
        if user is None:
            raise HTTPException(401)
        return UserResponse(id=user.id, email=user.email)


app = create_app()
app.get("/users/me")(read_me)
app.router.routes.insert(0, app.router.routes.pop())  # the first that fits answers
