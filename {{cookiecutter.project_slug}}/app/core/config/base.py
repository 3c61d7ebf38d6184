"""What all groups of settings have in common."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parents[3]
ENV_FILE = PROJECT_ROOT / ".env"


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
