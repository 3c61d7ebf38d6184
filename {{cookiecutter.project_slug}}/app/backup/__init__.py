"""Database backups that are proven to restore.

Knows nothing of the API or of task queues: it works from cron, and can be lifted out. Every function
takes a BackupConfig and returns plain JSON data; what goes wrong on purpose is a BackupError.
"""

from app.backup.create import create_backup
from app.backup.errors import (
    BackupError,
    BusyError,
    DatabaseError,
    InvalidBackupError,
    RefusedError,
    StorageError,
    ToolError,
)
from app.backup.restore import drop_old, old_databases, restore_backup, verify_backup
from app.backup.retention import backup_status, list_backups, prune_backups
from app.backup.store import BackupConfig
from app.backup.stream import Progress

__all__ = [
    "BackupConfig",
    "BackupError",
    "BusyError",
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
