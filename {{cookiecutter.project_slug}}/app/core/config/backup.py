"""Backup settings. docs/backups.md says what each is for."""

import os
from pathlib import Path
from typing import Annotated

from dotenv import dotenv_values
from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from app.core.config.base import PROJECT_ROOT, SettingsGroup

# What obstore accepts. Other programs' variables with these prefixes are none of its business.
OBJECT_STORES = {
    "AWS_": "ACCESS_KEY_ID SECRET_ACCESS_KEY SESSION_TOKEN REGION DEFAULT_REGION ENDPOINT"
    " ENDPOINT_URL ALLOW_HTTP VIRTUAL_HOSTED_STYLE_REQUEST SKIP_SIGNATURE"
    " CONTAINER_CREDENTIALS_RELATIVE_URI CONTAINER_CREDENTIALS_FULL_URI"
    " CONTAINER_AUTHORIZATION_TOKEN_FILE WEB_IDENTITY_TOKEN_FILE ROLE_ARN ROLE_SESSION_NAME"
    " SERVER_SIDE_ENCRYPTION SSE_KMS_KEY_ID",
    "GOOGLE_": "SERVICE_ACCOUNT SERVICE_ACCOUNT_PATH SERVICE_ACCOUNT_KEY APPLICATION_CREDENTIALS",
    "AZURE_": "STORAGE_ACCOUNT_NAME STORAGE_ACCOUNT_KEY STORAGE_SAS_TOKEN STORAGE_CLIENT_ID"
    " STORAGE_CLIENT_SECRET STORAGE_TENANT_ID STORAGE_ENDPOINT CLIENT_ID CLIENT_SECRET TENANT_ID"
    " FEDERATED_TOKEN_FILE",
}


class BackupSettings(SettingsGroup):
    """Where backups go, how long they are kept, and where copies of them go."""

    BACKUP_DIR: Path = Path("./backups/database")
    BACKUP_RETENTION_DAYS: int = Field(default=30, ge=1, le=36_500)
    # So many of the newest backups stay, however old they are.
    BACKUP_KEEP_AT_LEAST: int = Field(default=3, ge=1)
{% if cookiecutter.database != "sqlite" %}
    # Another user for backups and restores, and another server on which to verify.
    BACKUP_DATABASE_URL: str | None = Field(default=None, repr=False)
    BACKUP_VERIFY_URL: str | None = Field(default=None, repr=False)
{% endif %}
    BACKUP_COPY_URL: str | None = Field(default=None, pattern="^(s3|gs|az|file)://")
    # Public keys, separated by commas, and the file of a private key.
    BACKUP_AGE_RECIPIENTS: Annotated[list[str], NoDecode] = []
    BACKUP_AGE_IDENTITY_FILE: Path | None = None
{% if cookiecutter.use_celery %}
    # Seconds before a failed backup task is tried again; doubled each of three times.
    BACKUP_RETRY_SECONDS: int = Field(default=20, ge=0)
{% endif %}

    @field_validator("BACKUP_AGE_RECIPIENTS", mode="before")
    @classmethod
    def _split(cls, value: str | list[str]) -> list[str]:
        parts = value.split(",") if isinstance(value, str) else value
        return [part.strip() for part in parts if part.strip()]

    @field_validator("BACKUP_AGE_RECIPIENTS")
    @classmethod
    def _must_be_public(cls, value: list[str]) -> list[str]:
        if not all(key.startswith(("age1", "ssh-")) for key in value):
            raise ValueError("must be public keys: age1… or ssh-…")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value


def object_store_options() -> dict[str, str]:
    """Return the object store's variables of the process, else of .env.

    https://developmentseed.org/obstore/latest/api/store/aws/#obstore.store.S3Config
    """
    known = {**dotenv_values(PROJECT_ROOT / ".env"), **os.environ}
    names = [prefix + name for prefix, names in OBJECT_STORES.items() for name in names.split()]
    return {name: value for name in names if (value := known.get(name))}
