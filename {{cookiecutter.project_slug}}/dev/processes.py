"""The processes that ``python -m dev`` starts, and the checks before it."""

import socket
import subprocess
import sys
{% if cookiecutter.use_celery %}
import tempfile
from pathlib import Path
{% endif %}
{% if cookiecutter.use_redis %}
from urllib.parse import urlsplit

from redis.exceptions import RedisError
{% endif %}

from app.core.config.settings import settings
{% if cookiecutter.use_redis %}
from app.core.redis import ping_redis
from dev.redis import SERVER
{% endif %}
from dev.supervisor import ROOT, Process, supervise


def check_port(name: str, port: int) -> None:
    """Exit with a message if the port is in use; ``name`` is the setting that changes it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            sys.exit(f"Port {port} is in use. Set {name} in .env to a free port.")


def listens(port: int) -> bool:
    """Return whether something accepts connections on the port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def check_migrations() -> None:
    """Exit with a message if the database does not answer, or not all migrations are applied."""
    command = [sys.executable, "-m", "alembic", "current", "--check-heads"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "not on all head revisions" in result.stdout + result.stderr:
        sys.exit("The database has pending migrations. Run: uv run alembic upgrade head")
    if result.returncode:
        sys.exit(result.stderr.strip())
{% if cookiecutter.use_redis %}


def find_redis() -> list[Process]:
    """Return the process that serves Redis, or nothing if a server answers already.

    Exits with a message if there must be one elsewhere.
    """
    url = urlsplit(settings.redis.REDIS_URL)
    port = url.port or 6379
    try:
        ping_redis()
    except RedisError as error:
        is_local = url.hostname in ("localhost", "127.0.0.1") and not url.password
        if not is_local or listens(port):
            sys.exit(f"Redis does not answer at {url.hostname}:{port} (REDIS_URL): {error}")
        if SERVER is None:
            print("dev: redis-server is not installed, fakeredis replaces it.", flush=True)
        command = [sys.executable, "-m", "dev.redis", str(port)]
        return [Process("redis", *command, reload=False)]
    return []
{% endif %}


{% if cookiecutter.use_celery %}
def celery_processes(heartbeat_file: Path) -> list[Process]:
    """Return a worker, which creates the file when it is ready, beat and Flower."""
    celery = [sys.executable, "-m", "celery", "-A", "app.core.celery.celery_app"]
    flower = ["flower", "--address=127.0.0.1", f"--port={settings.celery.FLOWER_PORT}"]
    environment = {
        "CELERY_HEARTBEAT_FILE": str(heartbeat_file),
        # A worker that has to load changed code hands back its jobs quickly.
        "REMAP_SIGTERM": "SIGQUIT",
        "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": "2",
    }
    return [
        Process("worker", *celery, "worker", "-E", "--without-mingle", environment=environment),
        Process("beat", *celery, "beat"),
        # It warns about workers that are still starting.
        Process("flower", *celery, *flower, "--logging=error", reload=False),
    ]


{% endif %}
def run() -> None:
    """Run the processes until Ctrl-C."""
    check_port("PORT", settings.app.PORT)
{% if cookiecutter.use_celery %}
    check_port("FLOWER_PORT", settings.celery.FLOWER_PORT)
{% endif %}
    check_migrations()
    uvicorn = [sys.executable, "-m", "uvicorn", "app.main:app", f"--port={settings.app.PORT}"]
    api = Process("api", *uvicorn, "--timeout-graceful-shutdown=1")
    message = f"API: http://localhost:{settings.app.PORT}/docs"
{% if cookiecutter.use_celery %}
    message += f"\nFlower: http://localhost:{settings.celery.FLOWER_PORT}"
    with tempfile.TemporaryDirectory() as folder:
        heartbeat_file = Path(folder) / "worker"

        def is_ready() -> bool:
            ports = (settings.app.PORT, settings.celery.FLOWER_PORT)
            return heartbeat_file.exists() and all(map(listens, ports))

        processes = [*find_redis(), api, *celery_processes(heartbeat_file)]
        sys.exit(supervise(processes, is_ready, message))
{% else %}
    processes = [{% if cookiecutter.use_redis %}*find_redis(), {% endif %}api]
    sys.exit(supervise(processes, lambda: listens(settings.app.PORT), message))
{% endif %}
