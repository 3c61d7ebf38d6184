"""The committed migrations create the tables of the models."""

from alembic.config import main as alembic
from sqlalchemy import {{ "Enum, " if cookiecutter.database == "postgresql" }}inspect

from app.core.database import get_engine
from app.models import Base


def test_models_need_no_further_migration(database: None) -> None:
    """If this fails: uv run alembic revision --autogenerate -m CHANGE"""
    alembic(["check"])


def test_migrations_go_down_and_up_again(database: None) -> None:
    alembic(["downgrade", "base"])
    assert inspect(get_engine()).get_table_names() == ["alembic_version"]
    alembic(["upgrade", "head"])
    assert {*Base.metadata.tables, "alembic_version"} == {*inspect(get_engine()).get_table_names()}
{% if cookiecutter.database == "postgresql" %}


def test_enums_are_strings() -> None:
    for table in Base.metadata.tables.values():
        for column in table.columns:
            message = f"{column}: Enum breaks generated migrations. Use String, as in AGENTS.md"
            assert not isinstance(column.type, Enum) or not column.type.native_enum, message
{% endif %}
