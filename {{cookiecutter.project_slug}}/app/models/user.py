"""Users and their refresh tokens."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, false
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base
from app.core.security import utc_now


class User(Base):
    """Someone who can log in. ``email`` is in lower case."""

    __tablename__ = "users"
{% if cookiecutter.database == "sqlite" %}
    __table_args__ = {"sqlite_autoincrement": True}  # No id is given to a second user.
{% endif %}

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254{{ ', collation="utf8mb4_bin"' if cookiecutter.database == "mysql" }}), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    is_admin: Mapped[bool] = mapped_column(default=False, server_default=false())


class RefreshToken(Base):
    """A refresh token, hashed. All tokens that come from one login have the same ``family``."""

    __tablename__ = "refresh_tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    family: Mapped[str] = mapped_column(String(36), index=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
