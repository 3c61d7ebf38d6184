"""Start everything for development: ``uv run python -m dev``. Ctrl-C stops it."""

import os
import socket
import subprocess
import sys
from pathlib import Path
{% if cookiecutter.use_redis %}
from urllib.parse import urlsplit
{% endif %}

from honcho.manager import Manager

ROOT = Path(__file__).parents[1]
PORT = int(os.environ.get("PORT", "8000"))
{% if cookiecutter.use_celery %}
FLOWER_PORT = int(os.environ.get("FLOWER_PORT", "5555"))
CELERY = f"{sys.executable} -m celery -A app.core.celery.celery_app"
{% endif %}


def answers(address: tuple[str, int]) -> bool:
    """Return whether a server listens at the address."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(address) == 0


def main() -> int:
    """Apply the migrations, then run the processes until one ends."""
    os.chdir(ROOT)
    os.environ["PYTHONUNBUFFERED"] = "1"
    print(f"Starting the API at http://localhost:{PORT}/docs", flush=True)
    if not Path(".env").exists() and "SECRET_KEY" not in os.environ:
        sys.exit("There is no .env file: copy .env.example and fill in its empty values.")
    for name, port in {"PORT": PORT{{ ', "FLOWER_PORT": FLOWER_PORT' if cookiecutter.use_celery }}}.items():
        if answers(("127.0.0.1", port)):
            sys.exit(f"Port {port} is in use. Stop what uses it, or set another {name}.")
{% if cookiecutter.use_redis %}

    from app.core.config.settings import settings  # Reads .env.
{% endif %}

    if subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"]).returncode:
        return 1
    manager = Manager()
{% if cookiecutter.use_redis %}
    url = urlsplit(settings.redis.REDIS_URL)
    redis = (url.hostname or "localhost", url.port or 6379)
    if not answers(redis):
        print(f"No Redis answers at {redis[0]}:{redis[1]}: fakeredis replaces it.", flush=True)
        manager.add_process("redis", f"{sys.executable} -m dev.redis {redis[1]}")
{% endif %}
    uvicorn = f"{sys.executable} -m uvicorn app.main:app --reload --reload-dir app --port {PORT}"
    manager.add_process("api", uvicorn)
{% if cookiecutter.use_celery %}
    for name in ("worker", "beat"):
        # After an error, such as one of syntax, it waits for the next change.
        watch = f"{sys.executable} -m watchfiles --filter python"
        manager.add_process(name, f"{watch} '{CELERY} {name} --loglevel=info' app")
    manager.add_process("flower", f"{CELERY} flower --port={FLOWER_PORT}")
{% endif %}
    manager.loop()
    return manager.returncode or 0


if __name__ == "__main__":
    sys.exit(main())
