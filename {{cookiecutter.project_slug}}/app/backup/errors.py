"""What can go wrong. ``str(error)`` is one readable text that says what to do next.

``retryable`` says whether the same call may succeed later without anybody's help;
``exit_code`` is what ``python -m app.backup`` ends with.
"""


class BackupError(Exception):
    """Base of every error this package raises on purpose."""

    retryable = False
    exit_code = 1


class ToolError(BackupError):
    """A native tool is missing, or older than the server."""

    exit_code = 3


class DatabaseError(BackupError):
    """The server refused, went away, or its tool failed: carries the tool's own words."""

    retryable = True
    exit_code = 4


class StorageError(BackupError):
    """The backup folder cannot be written: full, read-only or removed."""

    retryable = True
    exit_code = 5


class InvalidBackupError(BackupError):
    """The file is corrupt, truncated, foreign, or does not restore to what its manifest says."""

    exit_code = 6


class BusyError(BackupError):
    """Another backup or restore of this database is running."""

    retryable = True
    exit_code = 7


class RefusedError(BackupError):
    """Nobody confirmed the swap."""

    exit_code = 8
