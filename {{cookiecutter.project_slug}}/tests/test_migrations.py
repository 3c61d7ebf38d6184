"""The committed migrations and the models are the same schema."""

from alembic.config import main as alembic
from sqlalchemy import inspect


def test_models_need_no_further_migration(database: None) -> None:
    alembic(["check"])  # raises when a migration would be generated


def test_migrations_go_down_and_up_again(database: None) -> None:
    from app.core.database import get_engine

    alembic(["downgrade", "base"])
    assert inspect(get_engine()).get_table_names() == ["alembic_version"]
    alembic(["upgrade", "head"])
    tables = set(inspect(get_engine()).get_table_names())
    assert tables == {"alembic_version", "users", "refresh_tokens"}
