"""A PostgreSQL server for the tests."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.servers import find_program, free_port, server, unavailable

GIVEN = os.environ.get("TEST_DATABASE_URL")
PORT = free_port()
# Every character that has a meaning in a URL, and one that is not ASCII.
PASSWORD = "p@ss:w/rd%23 ü"
DATABASE_URL = GIVEN or f"postgresql+psycopg://test:{quote(PASSWORD, '')}@127.0.0.1:{PORT}/app"


@contextmanager
def database_server() -> Iterator[None]:
    """Run the server that ``DATABASE_URL`` names."""
    if GIVEN:
        yield
        return
    # Debian keeps them off PATH; the newest first.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    initdb = find_program("initdb", folders=folders)
    if initdb is None:
        unavailable(
            "no PostgreSQL: install it (apt install postgresql), or set TEST_DATABASE_URL to the"
            " address of an empty database, such as postgresql://user:password@localhost/test"
        )
        return
    user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp())
    try:
        if user:
            shutil.chown(folder, user)
        data, password = folder / "data", folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        command: list[str | Path] = [
            initdb,
            "-D",
            data,
            "-U",
            "test",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
        ]
        subprocess.run(
            [*command, f"--pwfile={password}", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            cwd=folder,
        )
        options = ["-p", str(PORT), "-k", "", "-h", "127.0.0.1", "-F"]
        postgres = Path(initdb).with_name("postgres")
        with server([postgres, "-D", data, *options], folder / "log", _answers, user):
            with _connect() as connection:
                connection.execute("CREATE DATABASE app")
            yield
    finally:
        shutil.rmtree(folder)


def _connect() -> psycopg.Connection:
    return psycopg.connect(
        host="127.0.0.1",
        port=PORT,
        user="test",
        password=PASSWORD,
        dbname="postgres",
        autocommit=True,
    )


def _answers() -> bool:
    try:
        _connect().close()
    except psycopg.OperationalError:
        return False
    return True


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; Debian's package brings a user for it."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"
