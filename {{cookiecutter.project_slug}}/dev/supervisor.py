"""Runs processes: restarts what ends, and what has to load changed code."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchfiles import PythonFilter, watch

ROOT = Path(__file__).parents[1]
# Seconds that a process gets to end before it is killed.
STOP_TIMEOUT = 10
# A process that ends sooner is broken: starting it again would not help.
MIN_UPTIME = 10


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
        self.is_running = False

    def start(self) -> None:
        """Start the process."""
        self.popen = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            # Logs are written to standard error; this would be the banners of Celery and Redis.
            stdout=None if self.name == "api" else subprocess.DEVNULL,
            start_new_session=True,
        )
        self.started_at = time.monotonic()
        self.is_running = True

    def stop(self) -> None:
        """End the process and its children."""
        self.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.is_running = False

    def ended_too_soon(self) -> bool:
        """Return whether the process has ended. If it ran for a while, it is started again."""
        if not self.is_running or self.popen.poll() is None:
            return False
        self.stop()
        uptime = time.monotonic() - self.started_at
        action = "Starting it again" if uptime > MIN_UPTIME else "See its output above"
        print(f"dev: {self.name} ended with code {self.popen.returncode}. {action}.", flush=True)
        if uptime > MIN_UPTIME:
            self.start()
        return not self.is_running


def supervise(processes: list[Process], is_ready: Callable[[], bool], message: str) -> int:
    """Run the processes until Ctrl-C, or until one does not start; return the exit code.

    A change of the code restarts the processes that load it. After that, a process that does not
    start waits for the next change. The message is printed once, when ``is_ready`` is true.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    is_announced = has_changed = False
    try:
        for process in processes:
            process.start()
        for changes in watch(
            ROOT / "app", watch_filter=PythonFilter(), rust_timeout=500, yield_on_timeout=True
        ):
            if changes:
                has_changed = True
                print("dev: the code has changed, restarting.", flush=True)
                for process in filter(lambda process: process.reload, processes):
                    process.stop()
                    process.start()
            broken = [process for process in processes if process.ended_too_soon()]
            if broken and not has_changed:
                return 1
            if not is_announced and is_ready():
                is_announced = True
                print(message, flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C again must not leave any behind.
        running = [process for process in reversed(processes) if process.is_running]
        for process in running[:-1]:
            process.popen.terminate()
        for process in running:  # The first that was started ends last: the others may need it.
            process.stop()
    return 0
