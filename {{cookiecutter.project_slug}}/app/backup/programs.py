"""Running the native dump and restore programs.

A password is never an argument, which every user of the machine can read. It is passed in the
child's environment, or in an option file without a name: a killed run leaves no secret on disk.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from app.backup.base import CHUNK, one_line
from app.backup.errors import DatabaseError

# An error message of a client program, such as "ERROR:  …" or "program: error: …".
ERROR = re.compile(r"ERROR( \d+|:)|[\w-]+: (error|fatal|Error|Got error|Couldn't)\b")


@dataclass(frozen=True)
class Command:
    """A native program with its arguments; ``options`` is the text of an option file."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)


def version(path: str) -> str:
    """Return the line that a program prints for ``--version``."""
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.strip()


@contextmanager
def running(command: Command, *, feed: bool = False) -> Iterator[IO[bytes]]:
    """Run a program; give its output, or with ``feed`` its input, as a file object.

    Leaving the block normally waits for its end and raises DatabaseError with its error message
    if it failed; leaving it by an exception kills it. When this process is killed, the pipe
    breaks: a dump ends by SIGPIPE at its next write, a client at the end of its input.
    """
    with TemporaryFile() as stderr, TemporaryFile() as options:
        argv = list(command.argv)
        if command.options:
            options.write(command.options.encode())
            options.seek(0)
            argv.insert(1, f"--defaults-file=/dev/fd/{options.fileno()}")
        process = subprocess.Popen(
            argv,
            env={**os.environ, **command.env},
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if feed else subprocess.PIPE,
            stderr=stderr,
            pass_fds=[options.fileno()],
            bufsize=CHUNK,
            pipesize=CHUNK,
        )
        pipe = process.stdin or process.stdout
        assert pipe is not None
        try:
            yield pipe
            if feed:
                pipe.close()
            code = process.wait()
        except BrokenPipeError:  # the client stopped reading; its error message says why
            code = process.wait() or 1
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            with suppress(BrokenPipeError):  # what is buffered has no reader any more
                pipe.close()
        if code:
            raise DatabaseError(_failure(command, code, stderr))


def _failure(command: Command, code: int, stderr: IO[bytes]) -> str:
    # From the end: a client may print the statement, which holds rows, before its error.
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 64 * 1024))
    lines = stderr.read().decode(errors="replace").splitlines()
    # Only the lines of the error itself: those around it may hold rows of the database.
    errors = [line for line in lines if ERROR.match(line)]
    others = [] if "--------------" in lines else lines[-3:]
    words = one_line(" ".join(errors or others), command.secret)
    if code < 0:
        words = f"killed by signal {-code}. {words}"
    return f"{Path(command.argv[0]).name} failed: {words.strip() or f'exit code {code}'}"
