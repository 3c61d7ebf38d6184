"""Reading a backup file through to its end."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isal import igzip, isal_zlib

from app.backup import {{ cookiecutter.database }} as engine
from app.backup.base import Meter
from app.backup.config import Progress, no_progress
from app.backup.errors import InvalidBackupError
from app.backup.manifest import Manifest


def read_through(path: Path, progress: Progress = no_progress) -> tuple[str, int]:
    """Decompress a backup to its end and inspect what is in it.

    Returns the SHA-256 of the file and the size of the dump in it, in bytes.

    Raises:
        InvalidBackupError: it is damaged, incomplete, or holds what must not be run.
    """
    with damage_errors(path), igzip.open(path, "rb") as plain:
        meter = Meter(plain, progress, "check")
        engine.inspect(meter)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), meter.done


def check_content(path: Path, manifest: Manifest, progress: Progress = no_progress) -> None:
    """Compare a backup with the checksum and the size in its manifest.

    Raises:
        InvalidBackupError: it is damaged, or another file.
    """
    if read_through(path, progress) != (manifest.sha256, manifest.dump_size):
        raise InvalidBackupError(f"{path} has another checksum than its manifest: use another one")


@contextmanager
def damage_errors(path: Path) -> Iterator[None]:
    """Turn errors of decompression into InvalidBackupError."""
    try:
        yield
    # isal's type stub declares its error as an instance.
    except (EOFError, igzip.BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]
        raise InvalidBackupError(f"{path} is damaged ({error}): use another backup") from None
    except InvalidBackupError as error:
        raise InvalidBackupError(f"{path} {error}") from None
