"""The project's own BackupConfig."""

from app.backup.config import BackupConfig
from app.core.config.backup import load_object_store_variables
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
