"""A Redis server for development and tests, without files: ``python -m dev.redis PORT``."""

import os
import shutil
import subprocess
import sys
from urllib.parse import urlsplit

from dev.processes import answers

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")


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


def main(port: str) -> None:
    """Run ``redis-server``, or fakeredis where it is not installed, until a signal ends it."""
    if SERVER:
        options = ["--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"]
        os.execv(SERVER, [SERVER, "--port", port, *options])
    from fakeredis import TcpFakeServer

    TcpFakeServer(("127.0.0.1", int(port)), server_type="redis").serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
