"""How Alembic reaches the database: through the application's own engine and models."""

from alembic import context

import app.models
from app.core.database import Base, get_engine

assert app.models  # imported so that the metadata is complete

with get_engine().connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
{% if cookiecutter.database == "sqlite" %}
        render_as_batch=True,  # SQLite alters a table by copying it
{% endif %}
    )
    with context.begin_transaction():
        context.run_migrations()
