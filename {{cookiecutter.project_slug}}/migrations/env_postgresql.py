"""Alembic environment: the engine and the models of the application."""

from logging import INFO, basicConfig

from alembic import context
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.core.database import make_engine
from app.models import Base

basicConfig(level=INFO, format="%(message)s")

engine = make_engine()
try:
    connection = engine.connect()
except OperationalError as error:
    reason = str(error.orig).splitlines()[0]
    # The password is not part of the text of a URL.
    raise SystemExit(f"Cannot connect to {engine.url}: {reason}") from None

with connection:
    connection.detach()  # So that it is closed at the end, not given back to the pool.
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction():
        # Another ``alembic upgrade`` waits until this one has ended. The number means nothing.
        connection.execute(text("SELECT pg_advisory_xact_lock(1347703880)"))
        context.run_migrations()
