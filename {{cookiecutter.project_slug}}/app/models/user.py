"""Users."""

from datetime import datetime

from sqlalchemy import String, false
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
