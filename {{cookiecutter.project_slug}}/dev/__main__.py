"""Start everything for development: ``uv run python -m dev``. Ctrl-C stops it."""

import os
import signal
import subprocess
import sys
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path

from watchfiles import PythonFilter, watch

from dev.processes import PORTS, PROCESSES, answers, run_processes
{% if cookiecutter.use_redis %}
from dev.redis import start_redis
{% endif %}

ROOT = Path(__file__).parents[1]


def start_processes() -> SpawnProcess:
    """Start the processes, in a new interpreter that loads the code as it is now."""
    processes = get_context("spawn").Process(target=run_processes)
    processes.start()
    return processes


def wait_for_change() -> None:
    """Return when the code or .env has changed. Editors may replace the file, so watch it anew."""
    paths = [path for path in ("app", ".env") if Path(path).exists()]
    next(watch(*paths, watch_filter=PythonFilter(extra_extensions=[".env"])))


def main() -> None:
    """Apply the migrations, then run the processes. A change of the code or of .env restarts them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # Raises KeyboardInterrupt.
    os.chdir(ROOT)
    os.environ["PYTHONUNBUFFERED"] = "1"
    docs = f"http://localhost:{PORTS['PORT']}/docs"
    print(f"Starting {', '.join(PROCESSES)}. The API will be at {docs}", flush=True)
    if not Path(".env").exists() and "SECRET_KEY" not in os.environ:
        sys.exit("There is no .env: cp .env.example .env, and fill in its empty values.")
    for name, port in PORTS.items():
        if answers("127.0.0.1", int(port)):
            sys.exit(f"Port {port} is in use. Stop what uses it, or set another {name}.")
    if subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"]).returncode:
        sys.exit(1)
{% if cookiecutter.use_redis %}
    servers = start_redis()
{% endif %}
    processes = start_processes()
    try:
        while True:
            wait_for_change()
            processes.terminate()
            processes.join()
            processes = start_processes()
    except KeyboardInterrupt:
        pass
    finally:
        processes.terminate()
        processes.join()
{% if cookiecutter.use_redis %}
        for server in servers:
            server.terminate()
{% endif %}


if __name__ == "__main__":
    main()
