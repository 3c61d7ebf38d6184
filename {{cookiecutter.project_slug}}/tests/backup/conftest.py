"""Each test has a database of its own with some rows, and a folder for its backups."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.backup import database
from app.core.config.settings import settings

numbers = itertools.count(1)
metadata = sa.MetaData()
notes = sa.Table(
    "notes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.Unicode(200), nullable=False),
)
version = sa.Table("alembic_version", metadata, sa.Column("version_num", sa.String(32)))
TEXTS = ["O'Brien", "'; DROP TABLE notes; --", "back\\slash\\", "tab\tnew\nline", "Ünïcödé ☃ 😀"]


@pytest.fixture
def live(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """A database with rows, to which the settings point."""
{% if cookiecutter.database == "sqlite" %}
    url = sa.make_url(f"sqlite:///{tmp_path}/live_{next(numbers)}.db")
{% else %}
{% if cookiecutter.database == "mysql" %}
    # PyMySQL would send a text in Latin-1.
    password = {"password": (sa.make_url(database_url).password or "").encode()}
{% endif %}
    url = sa.make_url(database_url).set(database=f"backup_test_{next(numbers)}")
    server = sa.create_engine(database_url, isolation_level="AUTOCOMMIT"{{ ", connect_args=password" if cookiecutter.database == "mysql" }})
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {url.database}{{ " CHARACTER SET utf8mb4" if cookiecutter.database == "mysql" }}")
    server.dispose()
{% endif %}
    monkeypatch.setattr(settings.database, "DATABASE_URL", url.render_as_string(False))
    monkeypatch.setattr(settings.backup, "BACKUP_DIR", tmp_path / "backups")
    # Restoring ends open connections.
    engine = sa.create_engine(url, poolclass=sa.NullPool{{ ", connect_args=password" if cookiecutter.database == "mysql" }})
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(notes.insert(), [{"text": text} for text in TEXTS])
        connection.execute(version.insert(), {"version_num": "0123abc"})
    yield engine
    sides = [one for kind in ("verify", "restore", "old") for one in database.sides(kind)]
    for name in [*sides, str(url.database)]:
        database.drop(name)


def read(engine: sa.Engine) -> list[str]:
    """Return the texts of all notes."""
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(notes.c.text).order_by(notes.c.id)))


def delete_all(engine: sa.Engine) -> None:
    """Delete all notes."""
    with engine.begin() as connection:
        connection.execute(notes.delete())
