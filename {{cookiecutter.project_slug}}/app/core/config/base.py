"""The base class of all groups of settings."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parents[3]
ENV_FILE = PROJECT_ROOT / ".env"


def split_commas(value: Any) -> Any:
    """Return the parts of a comma-separated string."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_commas)]


class SettingsGroup(BaseSettings):
    """Fields are named after their environment variables, which override the ``.env`` file.

    https://docs.pydantic.dev/latest/concepts/pydantic_settings/
    """

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        # With or without a byte order mark.
        env_file_encoding="utf-8-sig",
        extra="ignore",
        case_sensitive=True,
        frozen=True,
        # Values may be secrets.
        hide_input_in_errors=True,
    )
