"""The project's own BackupConfig."""

import os

from dotenv import dotenv_values

from app.backup.config import BackupConfig
from app.core.config.base import ENV_FILE
from app.core.config.settings import settings


def backup_config() -> BackupConfig:
    """Return what the settings say about backups."""
    backup = settings.backup
    if backup.BACKUP_COPY_URL:
        load_object_store_variables()
    return BackupConfig(
{% if cookiecutter.database == "sqlite" %}
        url=settings.database.DATABASE_URL,
{% else %}
        url=backup.BACKUP_DATABASE_URL or settings.database.DATABASE_URL,
        verify_url=backup.BACKUP_VERIFY_URL,
{% endif %}
        directory=backup.BACKUP_DIR,
        keep_at_least=backup.BACKUP_KEEP_AT_LEAST,
        copy_url=backup.BACKUP_COPY_URL,
        age_recipients=backup.BACKUP_AGE_RECIPIENTS,
        age_identity_file=backup.BACKUP_AGE_IDENTITY_FILE,
    )


def load_object_store_variables() -> None:
    """Put the object store's variables of .env into the environment, where obstore reads them.

    https://developmentseed.org/obstore/latest/api/store/aws/#obstore.store.S3Config
    """
    for name, value in dotenv_values(ENV_FILE, encoding="utf-8-sig").items():
        if value and name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            os.environ.setdefault(name, value)
