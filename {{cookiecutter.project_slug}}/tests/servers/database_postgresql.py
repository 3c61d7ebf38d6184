"""A PostgreSQL server for the tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.servers import find_program, free_port, server, skip_or_fail

GIVEN = os.environ.get("TEST_DATABASE_URL")
PORT = free_port()
PASSWORD = "p@ss:w/rd%23 ü"  # characters that have a meaning in URLs, and one that is not ASCII
DATABASE_URL = GIVEN or f"postgresql+psycopg://test:{quote(PASSWORD, '')}@127.0.0.1:{PORT}/test"
# PostgreSQL refuses to run as root.
USER = "postgres" if os.geteuid() == 0 else None


@contextmanager
def database_server() -> Iterator[None]:
    """Run the server, or use the empty database of ``TEST_DATABASE_URL``."""
    if GIVEN:
        yield
        return
    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    initdb = find_program("initdb", folders=newest_first)
    if initdb is None:
        skip_or_fail("PostgreSQL is not installed: apt install postgresql, or TEST_DATABASE_URL")
        return
    folder = Path(tempfile.mkdtemp())
    try:
        data, password = folder / "data", folder / "password"
        password.write_text(PASSWORD)
        if USER:
            shutil.chown(folder, USER)
            shutil.chown(password, USER)
        options = ["--username=test", f"--pwfile={password}", "--auth=scram-sha-256"]
        command = [initdb, f"--pgdata={data}", *options, "--encoding=UTF8", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=USER, cwd=folder)
        command = [str(Path(initdb).with_name("postgres")), "-D", str(data)]
        # -F: the data need not survive a power cut.
        command += ["-p", str(PORT), "-h", "127.0.0.1", "-k", "", "-F"]
        with server(command, folder / "log", _create_database, USER):
            yield
    finally:
        shutil.rmtree(folder)


def _create_database() -> bool:
    options = f"host=127.0.0.1 port={PORT} user=test dbname=postgres"
    try:
        with psycopg.connect(options, password=PASSWORD, autocommit=True) as connection:
            connection.execute("CREATE DATABASE test")
    except psycopg.OperationalError:  # It is still starting.
        return False
    return True
