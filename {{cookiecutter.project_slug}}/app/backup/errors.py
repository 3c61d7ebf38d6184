"""The errors of this package. ``str(error)`` is one line that says what to do next.

``exit_code`` is the exit status of ``python -m app.backup``.
"""


class BackupError(Exception):
    """Base class of every error that this package raises on purpose."""

    exit_code = 1


class ToolError(BackupError):
    """A native program is missing or older than the server."""

    exit_code = 3


class DatabaseError(BackupError):
    """The server or its program failed; the message is that of the program."""

    exit_code = 4


class StorageError(BackupError):
    """The backup folder cannot be written: full, read-only or removed."""

    exit_code = 5


class InvalidBackupError(BackupError):
    """The backup is damaged, belongs to another database, or does not restore to what it says."""

    exit_code = 6


class BusyError(BackupError):
    """Another backup or restore of this database is running."""

    exit_code = 7


class RefusedError(BackupError):
    """The restore was not confirmed, or is not safe."""

    exit_code = 8


class CopyError(BackupError):
    """The off-site copy could not be written or read; local backups are not affected."""

    exit_code = 9
