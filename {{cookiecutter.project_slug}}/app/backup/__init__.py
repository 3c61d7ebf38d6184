"""Database backups that are proven to restore.

Every function takes a BackupConfig and returns plain JSON data; an expected failure is a
BackupError. Only ``settings``, ``metrics`` and ``__main__`` need the rest of the application.

``create`` and ``restore`` are the place to start reading. ``folder`` is the backup folder,
``copy`` the off-site copies, ``retention`` says which backups may go, and ``{{ cookiecutter.database }}`` has what
is particular to the database: see ``base``.
"""

from app.backup.config import BackupConfig, Progress
from app.backup.create import create_backup
from app.backup.errors import (
    BackupError,
    BusyError,
    CopyError,
    DatabaseError,
    InvalidBackupError,
    RefusedError,
    StorageError,
    ToolError,
)
from app.backup.restore import drop_old, old_databases, restore_backup, verify_backup
from app.backup.retention import backup_status, list_backups, prune_backups

__all__ = [
    "BackupConfig",
    "BackupError",
    "BusyError",
    "CopyError",
    "DatabaseError",
    "InvalidBackupError",
    "Progress",
    "RefusedError",
    "StorageError",
    "ToolError",
    "backup_status",
    "create_backup",
    "drop_old",
    "list_backups",
    "old_databases",
    "prune_backups",
    "restore_backup",
    "verify_backup",
]
