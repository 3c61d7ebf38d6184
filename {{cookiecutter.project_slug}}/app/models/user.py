"""Users."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base
from app.core.security import utc_now


class User(Base):
    """Someone who can log in. ``email`` is normalized; times are in UTC without a time zone."""

    __tablename__ = "users"
{% if cookiecutter.database == "sqlite" %}
    # Without it, SQLite gives the id of a deleted user to the next one.
    __table_args__ = {"sqlite_autoincrement": True}
{% endif %}

    id: Mapped[int] = mapped_column(primary_key=True)
{% if cookiecutter.database == "mysql" %}
    # The default collation ignores accents, so two people's addresses could be taken for one.
    email: Mapped[str] = mapped_column(String(254, collation="utf8mb4_bin"), unique=True)
{% else %}
    email: Mapped[str] = mapped_column(String(254), unique=True)
{% endif %}
    password_hash: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
