"""What all groups of settings share."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parents[3]


class SettingsGroup(BaseSettings):
    """Fields are named as their environment variables are.

    A variable of the process beats the same name in ``.env``. Values never appear in an error:
    some of them are secrets.
    """

    model_config = SettingsConfigDict(
        env_file=PROJECT_ROOT / ".env",
        env_file_encoding="utf-8",
        extra="ignore",
        case_sensitive=True,
        frozen=True,
        hide_input_in_errors=True,
    )
