"""A MySQL or MariaDB server for the tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pymysql

from tests.servers import find_program, free_port, listens, server, unavailable

GIVEN = os.environ.get("TEST_DATABASE_URL")
PORT = free_port()
# Every character that has a meaning in a URL, and one that is not ASCII.
PASSWORD = "p@ss:w/rd%23 ü"
DATABASE_URL = GIVEN or f"mysql+pymysql://test:{quote(PASSWORD, '')}@127.0.0.1:{PORT}/app"
FOLDERS = [Path("/usr/sbin"), Path("/usr/libexec")]


@contextmanager
def database_server() -> Iterator[None]:
    """Run the server that ``DATABASE_URL`` names."""
    if GIVEN:
        yield
        return
    program = find_program("mysqld", "mariadbd", folders=FOLDERS)
    if program is None:
        unavailable(
            "no MySQL or MariaDB: install one (apt install mariadb-server), or set"
            " TEST_DATABASE_URL to the address of an empty database, such as"
            " mysql://user:password@localhost/test"
        )
        return
    # The path of a socket is short by law: 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="db-", dir="/tmp"))
    try:
        data = folder / "data"
        user = ["--user=root"] if os.geteuid() == 0 else []
        options = ["--no-defaults", "--skip-name-resolve", f"--datadir={data}", *user]
        subprocess.run([*_prepare(program), *options], check=True, capture_output=True)
        command = [program, *options, f"--port={PORT}", "--bind-address=127.0.0.1"]
        command += [f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        # What a test has written need not outlive the machine's power.
        command += ["--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"]
        with server(command, folder / "log", lambda: listens(PORT)):
            _create_database(f"{folder}/socket")
            yield
    finally:
        shutil.rmtree(folder)


def _prepare(program: str) -> list[str]:
    mariadb = find_program("mariadb-install-db")
    if mariadb and "mariadb" in Path(program).resolve().name:
        return [mariadb, "--auth-root-authentication-method=normal", "--skip-test-db"]
    return [program, "--initialize-insecure"]


def _create_database(socket: str) -> None:
    with pymysql.connect(unix_socket=socket, user="root") as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE DATABASE app CHARACTER SET utf8mb4")
        cursor.execute("CREATE USER test@'%%' IDENTIFIED BY %s", [PASSWORD])
        cursor.execute("GRANT ALL ON *.* TO test@'%' WITH GRANT OPTION")
