"""Redis for development: uses the one that answers, otherwise starts one, otherwise says how."""

import os
import shutil
import signal
import sys
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from app.core.config.settings import settings
from app.core.redis import ping_redis


def main() -> None:
    """Stand for Redis among the processes: end only when told to, or when there is none."""
    url = urlsplit(settings.redis.REDIS_URL)
    address = f"{url.hostname}:{url.port or 6379}"
    try:
        ping_redis()
    except RedisError:
        server = shutil.which("redis-server")
    else:
        print(f"Using the Redis that answers at {address}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
        return
    if server is None or url.hostname not in ("localhost", "127.0.0.1") or url.password:
        sys.exit(
            f"No Redis answers at {address}. Install one (apt install redis-server, brew install"
            " redis), or set REDIS_URL to the address of one that runs."
        )
    # What is queued in development does not outlive it: no file is written.
    options = ["--port", str(url.port or 6379), "--bind", "127.0.0.1", "--save", ""]
    os.execv(server, [server, *options])


if __name__ == "__main__":
    main()
