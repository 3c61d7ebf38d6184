"""Alembic environment: the engine and the models of the application.

Alembic alters a table by replacing it with a copy, and dropping the original would delete the rows
that refer to it. So foreign keys are off, and are checked afterwards:
https://alembic.sqlalchemy.org/en/latest/batch.html#dealing-with-referencing-foreign-keys
All migrations are one transaction:
https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-transactions
"""

from logging import INFO, basicConfig
from sqlite3 import Connection as SQLiteConnection
from typing import Any

from alembic import context
from sqlalchemy import Connection, Inspector, Table, event, inspect
from sqlalchemy.exc import OperationalError

from app.core.database import make_engine
from app.models import Base

basicConfig(level=INFO, format="%(message)s")

engine = make_engine()


@event.listens_for(engine, "connect")
def configure(connection: SQLiteConnection, _record: object) -> None:
    """Turn foreign keys off, and leave it to SQLAlchemy to begin a transaction."""
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.isolation_level = None


@event.listens_for(engine, "begin")
def begin(connection: Connection) -> None:
    """Begin a transaction; another ``alembic upgrade`` waits until it has ended."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@event.listens_for(Table, "column_reflect")
def keep_options(_inspector: Inspector, table: Table, _column: object) -> None:
    """Give the copy of a table its model's options: AUTOINCREMENT is not read from the database."""
    if table.name in Base.metadata.tables:
        table.kwargs.update(Base.metadata.tables[table.name].kwargs)


def check_foreign_keys(*_: Any, **migration: Any) -> None:
    """End the migrations, and roll them back, when one leaves rows that refer to nothing."""
    row = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if row:
        revision = migration["step"].up_revision_id
        raise SystemExit(
            f"Migration {revision}: the row of {row[0]} with rowid {row[1]} refers to a row of"
            f" {row[2]} that does not exist. Nothing was changed. Foreign keys are off during"
            " migrations: delete or correct such rows in the migration."
        )


try:
    connection = engine.connect()
except OperationalError as error:
    raise SystemExit(f"Cannot open {engine.url}: {error.orig}") from None

with connection:
    connection.detach()  # So that it is closed at the end, not given back to the pool.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        render_as_batch=True,
        transactional_ddl=True,
        on_version_apply=check_foreign_keys,
    )
    with context.begin_transaction():
        # The highest ids so far, which the copy of a table forgets when their rows are deleted.
        highest: list[Any] = []
        if inspect(connection).has_table("sqlite_sequence"):
            highest = list(connection.exec_driver_sql("SELECT seq, name FROM sqlite_sequence"))
        context.run_migrations()
        for row in highest:
            connection.exec_driver_sql(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", tuple(row)
            )
