"""Refresh tokens, one row per login."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.database import Base
from app.models.user import User


class RefreshToken(Base):
    """The current refresh token of one login, hashed. Without the row the login has ended.

    All tokens of the login belong to one ``family``. The token that the current one replaced is
    kept too, since it may be sent again for a few seconds after ``rotated_at``.
    """

    __tablename__ = "refresh_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    family: Mapped[str] = mapped_column(String(64), unique=True)
    token_hash: Mapped[str] = mapped_column(String(64))
    previous_hash: Mapped[str | None] = mapped_column(String(64))
    rotated_at: Mapped[datetime | None]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    user: Mapped[User] = relationship(lazy="joined", innerjoin=True)
