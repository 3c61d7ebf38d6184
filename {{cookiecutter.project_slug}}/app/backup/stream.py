"""Gzip in fixed chunks: memory stays flat whatever the size of the database."""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from isal import igzip_lib, isal_zlib

from app.backup.errors import InvalidBackupError

CHUNK = 1 << 20  # bytes
# isal's type stub declares the class as an instance.
DAMAGED = cast(type[Exception], igzip_lib.IsalError)
GZIP = 31  # zlib's window bits 15, plus 16 for a gzip header and trailer

# Called as progress(phase, bytes done, bytes in all or None), about twice a second.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Stream:
    """One pass over a dump: sizes in bytes, and the checksum of the compressed file."""

    size: int
    sha256: str
    dump_size: int
    tail: bytes


class Meter:
    """Passes progress on at the start of a phase, and then at most twice a second."""

    def __init__(self, progress: Progress | None, phase: str, total: int | None = None) -> None:
        self._progress, self._phase, self._total = progress, phase, total
        self._due = 0.0

    def __call__(self, done: int) -> None:
        if self._progress is not None and time.monotonic() >= self._due:
            self._progress(self._phase, done, self._total)
            self._due = time.monotonic() + 0.5


class Unpacker:
    """Decompresses a backup piece by piece, checking it; `sink` gets the plain bytes."""

    def __init__(self, path: Path, sink: Callable[[bytes], object] | None = None) -> None:
        self._path, self._sink = path, sink
        self._decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._digest = hashlib.sha256()
        self._size = self._dump_size = 0
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Take the next compressed bytes; raise InvalidBackupError if they are not sound."""
        if not chunk:
            return
        self._size += len(chunk)
        self._digest.update(chunk)
        if self._decompressor.eof:
            raise InvalidBackupError(f"{self._path} goes on after its end: use another backup")
        try:
            while plain := self._decompressor.decompress(chunk, CHUNK):
                chunk = b""
                self._take(plain)
                if self._decompressor.eof or self._decompressor.needs_input:
                    break
        except DAMAGED as error:
            raise InvalidBackupError(
                f"{self._path} is damaged ({error}): use another backup"
            ) from error

    def finish(self) -> Stream:
        """Return what was read; raise InvalidBackupError if the end is missing."""
        if not self._decompressor.eof:
            raise InvalidBackupError(f"{self._path} is cut short: use another backup")
        if self._decompressor.unused_data:
            raise InvalidBackupError(f"{self._path} goes on after its end: use another backup")
        return Stream(self._size, self._digest.hexdigest(), self._dump_size, self._tail)

    def _take(self, plain: bytes) -> None:
        self._dump_size += len(plain)
        self._tail = (self._tail + plain[-512:])[-512:]
        if self._sink is not None:
            self._sink(plain)


def pack(
    source: IO[bytes], target: IO[bytes], feed: Callable[[bytes], None] | None, meter: Meter
) -> Stream:
    """Compress `source` into `target`; `feed` sees every chunk of the dump on its way.

    What was compressed is decompressed again in a thread beside it, and compared at the end.
    """
    # Level 1 gives about gzip's own size at a tenth of its time.
    compressor = isal_zlib.compressobj(1, wbits=GZIP)
    check = Unpacker(Path("the new backup"))
    dump_size, tail = 0, b""
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(check.feed, b"")
        for chunk in iter(lambda: source.read(CHUNK), b""):
            dump_size += len(chunk)
            tail = (tail + chunk[-512:])[-512:]
            if feed is not None:
                feed(chunk)
            packed = compressor.compress(chunk)
            target.write(packed)
            checked.result()  # one piece at a time: memory stays flat
            checked = pool.submit(check.feed, packed)
            meter(dump_size)
        packed = compressor.flush()
        target.write(packed)
        checked.result()
        pool.submit(check.feed, packed).result()
    stream = check.finish()
    if (stream.dump_size, stream.tail) != (dump_size, tail):
        raise InvalidBackupError("the new backup does not decompress to the dump: check the memory")
    return stream


def unpack(path: Path, sink: Callable[[bytes], object] | None, meter: Meter) -> Stream:
    """Read a backup to its end, giving the plain bytes to `sink`; raise if it is not sound."""
    unpacker = Unpacker(path, sink)
    size = 0
    with path.open("rb") as source:
        for chunk in iter(lambda: source.read(CHUNK), b""):
            unpacker.feed(chunk)
            size += len(chunk)
            meter(size)
    return unpacker.finish()
