"""How Alembic reaches the database: through the application's settings and models."""

from alembic import context

import app.models
from app.core.database import Base
from app.core.engine import make_engine

assert app.models  # imported so that the metadata is complete

with make_engine().connect() as connection:
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
