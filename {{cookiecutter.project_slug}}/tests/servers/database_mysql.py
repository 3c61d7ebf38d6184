"""A MySQL or MariaDB server for the tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.servers import find_program, free_port, listens, server, skip_or_fail

GIVEN = os.environ.get("TEST_DATABASE_URL")
PROGRAM = find_program("mysqld", "mariadbd", folders=[Path("/usr/sbin"), Path("/usr/libexec")])
IS_MARIADB = PROGRAM is not None and "mariadb" in Path(PROGRAM).resolve().name
PORT = free_port()
PASSWORD = "p@ss:w/rd%23 ü"  # characters that have a meaning in URLs, and one that is not ASCII
DATABASE_URL = GIVEN or f"mysql+pymysql://test:{quote(PASSWORD, '')}@127.0.0.1:{PORT}/test"
CREATE_DATABASE = f"""
CREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;
CREATE USER test@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO test@'%' WITH GRANT OPTION;
"""


@contextmanager
def database_server() -> Iterator[None]:
    """Run the server, or use the empty database of ``TEST_DATABASE_URL``."""
    if GIVEN:
        yield
        return
    if PROGRAM is None:
        skip_or_fail("MySQL is not installed: apt install mariadb-server, or TEST_DATABASE_URL")
        return
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # The path of a socket must be short.
    try:
        script = folder / "create.sql"
        script.write_text(CREATE_DATABASE, encoding="utf-8")
        options = ["--no-defaults", "--skip-name-resolve", f"--datadir={folder}/data"]
        if os.geteuid() == 0:
            options.append("--user=root")
        install = [PROGRAM, *options, "--initialize-insecure"]
        if IS_MARIADB:
            install = ["mariadb-install-db", *options]
        subprocess.run(install, check=True, capture_output=True)
        options += [f"--port={PORT}", "--bind-address=127.0.0.1", f"--init-file={script}"]
        options += [f"--socket={folder}/socket", f"--pid-file={folder}/pid", "--skip-log-bin"]
        # The data need not survive a power cut.
        options.append("--innodb-flush-log-at-trx-commit=0")
        with server([PROGRAM, *options], folder / "log", lambda: listens(PORT)):
            yield
    finally:
        shutil.rmtree(folder)
