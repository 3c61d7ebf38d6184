"""Runs processes, and restarts them when they end or the code changes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchfiles import PythonFilter, watch

ROOT = Path(__file__).parents[1]
# Seconds after which a process that does not end is killed.
STOP_TIMEOUT = 10
# Minimum number of seconds between two starts of a process.
RESTART_INTERVAL = 5


class Process:
    """A child process in a process group of its own."""

    def __init__(
        self,
        name: str,
        *command: str,
        reload: bool = True,
        environment: dict[str, str] | None = None,
    ) -> None:
        """``reload`` tells whether the process has to load changed code."""
        self.name = name
        self.command = command
        self.reload = reload
        self.environment = os.environ | (environment or {})

    def start(self) -> None:
        """Start the process."""
        self.popen = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            # Logs go to standard error; standard output has only banners.
            stdout=None if self.name == "api" else subprocess.DEVNULL,
            start_new_session=True,
        )
        self.started_at = time.monotonic()

    def stop(self) -> None:
        """End the process and its children."""
        self.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def supervise(processes: list[Process], is_ready: Callable[[], bool], message: str) -> int:
    """Run the processes until Ctrl-C and return the exit code.

    The message is printed when ``is_ready`` returns true. A process that ends before that ends all
    of them; later it is started again. A change of the code restarts the processes that load it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    has_started = False
    for process in processes:
        process.start()
    try:
        for changes in watch(
            ROOT / "app", watch_filter=PythonFilter(), rust_timeout=500, yield_on_timeout=True
        ):
            if changes:
                print("dev: the code has changed, restarting.", flush=True)
                for process in filter(lambda process: process.reload, processes):
                    process.stop()
                    process.start()
            for process in processes:
                if process.popen.poll() is None:
                    continue
                ended = f"dev: {process.name} ended with code {process.popen.returncode}"
                if not has_started:
                    print(f"{ended}, stopping.", flush=True)
                    return 1
                if time.monotonic() > process.started_at + RESTART_INTERVAL:
                    print(f"{ended}, starting it again.", flush=True)
                    process.stop()
                    process.start()
            if not has_started and is_ready():
                has_started = True
                print(message, flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # A second one must leave nothing behind.
        for process in processes[1:]:
            process.popen.terminate()
        for process in reversed(processes):  # The first one ends last: the others may need it.
            process.stop()
    return 0
