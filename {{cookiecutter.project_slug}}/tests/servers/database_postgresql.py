"""A PostgreSQL server for the tests."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import find_program, free_port, server, unavailable

GIVEN = os.environ.get("TEST_DATABASE_URL")
PORT = free_port()
DATABASE_URL = GIVEN or f"postgresql+psycopg://test@127.0.0.1:{PORT}/postgres"


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
        data = folder / "data"
        subprocess.run(
            [initdb, "-D", data, "-U", "test", "--auth=trust", "--encoding=UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            user=user,
            cwd=folder,
        )
        options = ["-p", str(PORT), "-k", "", "-h", "127.0.0.1", "-F"]
        postgres = Path(initdb).with_name("postgres")
        with server([postgres, "-D", data, *options], PORT, folder / "log", user):
            yield
    finally:
        shutil.rmtree(folder)


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; Debian's package brings a user for it."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(user.pw_name == "postgres" for user in pwd.getpwall()) else "nobody"
