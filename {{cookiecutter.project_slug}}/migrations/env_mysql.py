"""Alembic environment: the engine and the models of the application."""

from logging import INFO, basicConfig
from typing import Any

from alembic import context
from alembic.operations.ops import DropConstraintOp, DropTableOp, MigrationScript, ModifyTableOps
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.core.database import make_engine
from app.models import Base

basicConfig(level=INFO, format="%(message)s")


def change_order(_context: Any, _revision: Any, scripts: list[MigrationScript]) -> None:
    """Change what is generated: an index that a foreign key needs cannot be dropped on its own.

    A table is dropped together with its indexes, and a foreign key before its index.
    """
    for script in scripts:
        for directives in (script.upgrade_ops, script.downgrade_ops):
            if directives is None:
                continue
            dropped = {one.table_name for one in directives.ops if isinstance(one, DropTableOp)}
            changed = [one for one in directives.ops if isinstance(one, ModifyTableOps)]
            for table in changed:
                if table.table_name in dropped:
                    directives.ops.remove(table)
                table.ops.sort(key=lambda one: not isinstance(one, DropConstraintOp))


engine = make_engine()
try:
    connection = engine.connect()
except OperationalError as error:
    # The password is not part of the text of a URL.
    raise SystemExit(f"Cannot connect to {engine.url}: {error.orig}") from None

with connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        process_revision_directives=change_order,
    )
    # Another ``alembic upgrade`` waits until this one has ended and its connection is closed.
    connection.execute(text("SELECT GET_LOCK(CONCAT(DATABASE(), ' alembic'), 3600)"))
    connection.commit()
    with context.begin_transaction():
        context.run_migrations()
