"""Start everything for development: ``uv run python -m dev``. Ctrl-C stops it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
{% if cookiecutter.use_redis %}
from urllib.parse import urlsplit
{% endif %}

from watchfiles import PythonFilter, run_process

from dev.processes import PORTS, PROCESSES, run_processes

ROOT = Path(__file__).parents[1]


def answers(host: str, port: int) -> bool:
    """Return whether a server listens at the address."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
{% if cookiecutter.use_redis %}


def start_redis() -> list[subprocess.Popen[bytes]]:
    """Start a Redis server where a setting names one of this machine that does not run."""
    from app.core.config.settings import settings

    urls = {"REDIS_URL": settings.redis.REDIS_URL}
{% if cookiecutter.use_celery %}
    urls["CELERY_BROKER_URL"] = settings.celery.CELERY_BROKER_URL
    urls["CELERY_RESULT_BACKEND"] = settings.celery.CELERY_RESULT_BACKEND
{% endif %}
    started: dict[int, subprocess.Popen[bytes]] = {}
    for name, url in urls.items():
        parts = urlsplit(url)
        host, port = parts.hostname or "localhost", parts.port or 6379
        if parts.scheme not in ("redis", "rediss") or port in started or answers(host, port):
            continue
        if parts.scheme == "rediss" or host not in ("localhost", "127.0.0.1", "::1"):
            sys.exit(f"{name}: no Redis server answers at {host}:{port}.")
        print(f"{name}: no Redis server answers at {host}:{port}, so one is started.", flush=True)
        command = [sys.executable, "-m", "dev.redis", str(port)]
        started[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    return list(started.values())
{% endif %}


def main() -> None:
    """Apply the migrations, then run the processes. A change of the code or of .env restarts them."""
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    os.chdir(ROOT)
    os.environ["PYTHONUNBUFFERED"] = "1"
    print(f"Starting {', '.join(PROCESSES)}: http://localhost:{PORTS['PORT']}/docs", flush=True)
    if not Path(".env").exists() and "SECRET_KEY" not in os.environ:
        sys.exit("There is no .env: cp .env.example .env, and fill in its empty values.")
    for name, port in PORTS.items():
        if answers("127.0.0.1", int(port)):
            sys.exit(f"Port {port} is in use. Stop what uses it, or set another {name}.")
    if subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"]).returncode:
        sys.exit(1)
    paths = [path for path in (ROOT / "app", ROOT / ".env") if path.exists()]
    is_source = PythonFilter(extra_extensions=[".env"])
{% if cookiecutter.use_redis %}
    servers = start_redis()
    try:
        run_process(*paths, target=run_processes, watch_filter=is_source, sigint_timeout=10)
    finally:
        for server in servers:
            server.terminate()
{% else %}
    run_process(*paths, target=run_processes, watch_filter=is_source, sigint_timeout=10)
{% endif %}


if __name__ == "__main__":
    main()
