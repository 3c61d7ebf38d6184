"""Alembic environment: the engine and the models of the application."""

from logging import INFO, basicConfig

from alembic import context
from sqlalchemy.exc import OperationalError

from app.core.database import make_engine
from app.models import Base

basicConfig(level=INFO, format="%(message)s")

engine = make_engine()
try:
    connection = engine.connect()
except OperationalError as error:
    reason = str(error.orig).split("\n")[0]
    # The password is not part of the text of a URL.
    raise SystemExit(f"The database does not answer at {engine.url}: {reason}") from None

with connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
{% if cookiecutter.database == "sqlite" %}
        render_as_batch=True,  # SQLite alters a table by copying it.
{% endif %}
    )
    with context.begin_transaction():
        context.run_migrations()
