"""What ``python -m dev`` starts, and what it checks before."""

{% if cookiecutter.use_celery %}
import os
{% endif %}
import socket
import subprocess
import sys
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
        return [Process("redis", *command, reload=False, quiet=True)]
    return []
{% endif %}


def run() -> None:
    """Run the processes until Ctrl-C."""
    check_port("PORT", settings.app.PORT)
    ports = [settings.app.PORT]
    message = f"API: http://localhost:{settings.app.PORT}/docs"
{% if cookiecutter.use_celery %}
    check_port("FLOWER_PORT", settings.celery.FLOWER_PORT)
    ports.append(settings.celery.FLOWER_PORT)
    message += f"\nFlower: http://localhost:{settings.celery.FLOWER_PORT}"
{% endif %}
    check_migrations()
    uvicorn = [sys.executable, "-m", "uvicorn", "app.main:app", "--timeout-graceful-shutdown=1"]
    processes = [
{% if cookiecutter.use_redis %}
        *find_redis(),
{% endif %}
        Process("api", *uvicorn, f"--port={settings.app.PORT}"),
    ]
{% if cookiecutter.use_celery %}
    # A worker that has to reload hands its jobs back soon; the next one runs them again.
    os.environ |= {"REMAP_SIGTERM": "SIGQUIT", "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": "2"}
    celery = [sys.executable, "-m", "celery", "-A", "app.core.celery.celery_app"]
    flower = ["flower", "--address=127.0.0.1", f"--port={settings.celery.FLOWER_PORT}"]
    processes += [
        Process("worker", *celery, "worker", "--loglevel=info", quiet=True),
        Process("beat", *celery, "beat", "--loglevel=info", quiet=True),
        # It warns about workers that have not started yet.
        Process("flower", *celery, *flower, "--logging=error", reload=False, quiet=True),
    ]
{% endif %}
    sys.exit(supervise(processes, lambda: all(map(listens, ports)), message))
