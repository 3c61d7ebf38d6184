"""A Redis server for development and tests, without files: ``python -m dev.redis PORT``."""

import os
import shutil
import sys

from fakeredis import TcpFakeServer

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")


def main(port: str) -> None:
    """Run ``redis-server``, or fakeredis where it is not installed, until a signal ends it."""
    if SERVER:
        options = ["--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"]
        os.execv(SERVER, [SERVER, "--port", port, *options])
    TcpFakeServer(("127.0.0.1", int(port)), server_type="redis").serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
