"""The committed migrations create the tables of the models."""

from alembic.config import main as alembic
from sqlalchemy import inspect

from app.core.database import get_engine
from app.models import Base


def test_models_need_no_further_migration(database: None) -> None:
    alembic(["check"])  # raises if a migration would be generated


def test_migrations_go_down_and_up_again(database: None) -> None:
    alembic(["downgrade", "base"])
    assert inspect(get_engine()).get_table_names() == ["alembic_version"]
    alembic(["upgrade", "head"])
    assert {*Base.metadata.tables, "alembic_version"} == {*inspect(get_engine()).get_table_names()}
