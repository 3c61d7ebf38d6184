"""Alembic environment: uses the settings and the models of the application."""

from logging import INFO, basicConfig

from alembic import context

from app.core.database import make_engine
from app.models import Base

basicConfig(level=INFO, format="%(message)s")

with make_engine().connect() as connection:
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
