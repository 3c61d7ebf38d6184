"""Reading a backup file through to its end."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isal import igzip, isal_zlib

from app.backup import {{ cookiecutter.database }} as engine
from app.backup.base import Meter
from app.backup.config import Progress
from app.backup.errors import InvalidBackupError


@dataclass(frozen=True)
class Checked:
    """The checksum and the sizes, in bytes, of a file and of the dump in it."""

    sha256: str
    size: int
    dump_size: int


def read_through(path: Path, progress: Progress | None = None) -> Checked:
    """Decompress a backup to its end and inspect what is in it.

    Raises:
        InvalidBackupError: it is damaged, incomplete, or holds what must not be run.
    """
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    with damage_errors(path), igzip.open(path, "rb") as plain:
        meter = Meter(plain, progress, "check")
        engine.inspect(meter)
    return Checked(sha256, size, meter.done)


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
