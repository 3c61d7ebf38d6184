"""Database settings."""

from pydantic import Field, field_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.core.config.base import SettingsGroup

{% if cookiecutter.database == "postgresql" %}
DRIVER = "postgresql+psycopg"
SAME_DRIVER = ("postgres", "postgresql", DRIVER)
{% elif cookiecutter.database == "mysql" %}
DRIVER = "mysql+pymysql"
SAME_DRIVER = ("mysql", "mariadb", "mariadb+pymysql", DRIVER)
{% else %}
DRIVER = "sqlite"
SAME_DRIVER = (DRIVER, "sqlite+pysqlite")
{% endif %}


class DatabaseSettings(SettingsGroup):
    """The URL of the database and the limits of its connections."""

    DATABASE_URL: str = Field({% if cookiecutter.database == "sqlite" %}default="sqlite:///./{{ cookiecutter.project_slug | replace('-', '_') }}.db", {% endif %}repr=False)
    # Seconds that one statement may take. Migrations have no limit.
    DATABASE_TIMEOUT: int = Field(default=30, ge=1)
    # Connections per process. All processes together must stay below the limit of the server.
    DATABASE_POOL_SIZE: int = Field(default=15, ge=1)

    @field_validator("DATABASE_URL")
    @classmethod
    def _use_the_driver(cls, value: str) -> str:
        try:
            url = make_url(value)
        except ArgumentError:
            raise ValueError(f"must be a URL such as {DRIVER}://…") from None
        if url.drivername not in SAME_DRIVER:
            raise ValueError(f"must start with {DRIVER}://, this project has no other driver")
        return url.set(drivername=DRIVER).render_as_string(hide_password=False)
