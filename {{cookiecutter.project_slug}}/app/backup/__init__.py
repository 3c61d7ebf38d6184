"""Database backups that are proven to restore: ``python -m app.backup``, and docs/backups.md.

``operations`` is the place to start reading: create, verify, restore, prune. ``files`` is the backup
folder, ``copies`` the off-site copies, ``database`` what is particular to it.
"""

from app.backup.errors import BackupError, CopyError, InvalidBackupError
from app.backup.operations import create_backup, restore_backup, verify_backup

__all__ = [
    "BackupError",
    "CopyError",
    "InvalidBackupError",
    "create_backup",
    "restore_backup",
    "verify_backup",
]
