"""Running the native dump and restore programs.

No password is ever put into an argument, which every user of the machine can read. It goes
through the child's environment (readable by the same user only, who could
read ours as well) or through an option file that exists in a pipe only, so that a killed run leaves no secret on disk.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO
from urllib.parse import quote, quote_plus

from app.backup.errors import DatabaseError, ToolError
from app.backup.stream import CHUNK


@dataclass(frozen=True)
class Command:
    """A native program with its arguments; `options` is the text of an option file."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)


def find(names: tuple[str, ...], package: str) -> str:
    """Return the path of the first program of `names` that is installed."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise ToolError(f"{names[0]} is not installed: install the Debian package {package}")


def version(path: str) -> str:
    """Return the line that the program prints for ``--version``."""
    result = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def major(text: str) -> int:
    """Return the first number of a version text such as ``15.18 (Debian ...)``."""
    match = re.search(r"(\d+)\.\d+", text)
    return int(match[1]) if match else 0


def redact(text: str, secret: str) -> str:
    """Return `text` without the password, in its plain and its URL-quoted forms."""
    for form in {secret, quote(secret, safe=""), quote_plus(secret)} - {""}:
        text = text.replace(form, "***")
    return text


@contextmanager
def running(command: Command, *, feed: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its output (or, with `feed`, its input) on a pipe.

    Leaving the block normally waits for its end and raises DatabaseError with its own words
    when it failed; leaving it by an exception kills it. When this very process is killed, the
    pipe breaks: a dump ends by SIGPIPE at its next write, a client at the end of its input.
    """
    with TemporaryFile() as stderr, _option_file(command.options) as option_fd:
        argv = list(command.argv)
        if option_fd is not None:
            argv.insert(1, f"--defaults-file=/dev/fd/{option_fd}")
        process = subprocess.Popen(
            argv,
            env={**os.environ, **command.env},
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if feed else subprocess.PIPE,
            stderr=stderr,
            pass_fds=() if option_fd is None else (option_fd,),
            bufsize=0,
            pipesize=CHUNK,
        )
        try:
            yield process
            if process.stdin:
                process.stdin.close()
            code = process.wait()
        except BrokenPipeError:  # the client stopped reading: its own words say why
            code = process.wait() or 1
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe and not pipe.closed:
                    pipe.close()
        if code:
            raise DatabaseError(_failure(command, code, stderr))


def _failure(command: Command, code: int, stderr: IO[bytes]) -> str:
    name = os.path.basename(command.argv[0])  # noqa: PTH119
    stderr.seek(0)
    lines = stderr.read(64 * 1024).decode(errors="replace").splitlines()
    # Without the statement around the error, which holds rows of the database.
    errors = [line for line in lines if re.search(r"\bERROR\b", line)]
    words = " ".join(" ".join(errors or lines).split())[:2000]
    if code < 0:
        words = f"killed by signal {-code}. {words}"
    return f"{name} failed: {redact(words, command.secret).strip() or f'exit code {code}'}"


@contextmanager
def _option_file(text: str) -> Iterator[int | None]:
    if not text:
        yield None
        return
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(text.encode())
        yield reader
    finally:
        os.close(reader)


def output(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Return the pipe from which a program's output is read."""
    if process.stdout is None:
        raise ValueError("the program was started with its input on a pipe")
    return process.stdout


def writer(process: subprocess.Popen[bytes]) -> Callable[[bytes], None]:
    """Return a function that writes all of its bytes to a program's input."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view and process.stdin:
            view = view[process.stdin.write(view) :]

    return write
