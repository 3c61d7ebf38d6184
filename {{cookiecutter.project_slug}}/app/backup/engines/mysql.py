"""MySQL and MariaDB: mysqldump or mariadb-dump, and the matching client."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor

from app.backup import tools
from app.backup.engines import base
from app.backup.engines import mysql_programs as programs
from app.backup.engines.base import Facts, Snapshot, driver_arguments
from app.backup.engines.mysql_programs import creating, dropping, quote, rows, run
from app.backup.engines.mysql_rows import RowCounter
from app.backup.errors import DatabaseError, ToolError
from app.backup.tools import Command

SUFFIX = ".sql.gz"
END = b"-- Dump completed"

NAME_LIMIT = 64  # characters, https://dev.mysql.com/doc/refman/8.4/en/identifier-length.html
LOCK_WAIT = 10  # seconds for which the swap waits for a table
# MariaDB's dumps begin with this; Oracle's client takes it for an unknown command.
_NO_OP = "DO 0"
SANDBOX = re.compile(rb"\A/\*M?!999999\\- [^\n]*\n")


def database_name(url: str) -> str:
    """Return the database's own name."""
    return str(_parameters(url)["database"])


def side_name(url: str, kind: str, stamp: str) -> str:
    """Return the name of a side ("restore") or kept ("old") database."""
    return base.side_name(database_name(url), kind, stamp, NAME_LIMIT)


def others(url: str, kind: str) -> list[str]:
    """Return the side or kept databases of this one, oldest first."""
    with _errors(url), _connect(url, None) as conn:
        names = [row["Database"] for row in rows(conn, "SHOW DATABASES")]
    return base.of_kind(database_name(url), kind, names, NAME_LIMIT)


@contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """Dump in one transaction; rows are counted in the dump itself.

    MySQL cannot share one transaction's view with another connection, and a lock on all tables
    would stop the application (and needs rights that it seldom has).
    """
    with _errors(url), _connect(url) as conn:
        server = _server_version(conn)
        tool, version = _tool(server, ("mysqldump", "mariadb-dump"))
        if "MariaDB" in version and "MariaDB" not in server:
            _refuse_generated_columns(conn, database_name(url))
    arguments = [
        "--single-transaction",
        "--quick",
        "--routines",
        "--triggers",
        "--hex-blob",
        "--no-tablespaces",  # else the PROCESS privilege is needed
        "--default-character-set=utf8mb4",
        "--max-allowed-packet=1G",
    ]
    if "MariaDB" not in version:
        arguments += ["--set-gtid-purged=OFF", "--column-statistics=0"]
    counter = RowCounter()
    command = _command(url, tool, version, *arguments, "--", database_name(url))
    yield Snapshot(
        command,
        {"server": server, "tool": version},
        facts=lambda: Facts(dict(sorted(counter.tables.items())), counter.revision),
        feed=counter.feed,
    )


@contextmanager
def side(url: str, name: str) -> Iterator[Callable[[bytes], object]]:
    """Create a database of that name, like the live one, and let the client fill it."""
    with _errors(url), _connect(url, None) as conn:
        tool, version = _tool(_server_version(conn), ("mysql", "mariadb"))
        _create(conn, database_name(url), name)
    arguments = ("--batch", "--default-character-set=utf8mb4", "--max-allowed-packet=1G")
    command = _command(url, tool, version, *arguments, f"--database={name}")
    with tools.running(command, feed=True) as client:
        write = tools.writer(client)
        first = "MariaDB" not in version

        def feed(chunk: bytes) -> None:
            nonlocal first
            write(SANDBOX.sub(b"", chunk) if first else chunk)
            first = False

        yield feed


def facts(url: str, name: str) -> Facts:
    """Count the rows of a database on the same server."""
    with _errors(url), _connect(url, name) as conn:
        tables = {
            table: int(rows(conn, f"SELECT count(*) AS n FROM {quote(table)}")[0]["n"])
            for table in _tables(conn, name, sequences=False)
        }
        found = (
            rows(conn, "SELECT version_num FROM alembic_version")
            if "alembic_version" in tables
            else ()
        )
        return Facts(tables, found[0]["version_num"] if found else None)


def swap(url: str, side: str, old: str) -> list[str]:
    """Move all tables of both databases by one RENAME TABLE; return what went wrong after it.

    MySQL cannot rename a database, nor move triggers, views and routines: they are read before
    and made again in the same packet of statements, which the server has as a whole.
    """
    live = database_name(url)
    with _errors(url), _connect(url, None) as conn:
        _create(conn, side, live)  # if it is gone
        tables = _tables(conn, live)
        if tables:
            _create(conn, live, old)
        before, after = programs.read(conn, live), programs.read(conn, side)
        moves = [(live, old, table) for table in tables]
        moves += [(side, live, table) for table in _tables(conn, side)]
        run(conn, [_NO_OP, *dropping(side, _triggers(after))])
        _end_connections(conn, live)
        try:
            run(
                conn,
                [
                    f"SET lock_wait_timeout = {LOCK_WAIT}, foreign_key_checks = 0",
                    *_wait_for(live, tables),
                    *dropping(live, _triggers(before)),
                    _rename(moves),
                    *dropping(live, before),
                    *creating(live, after),
                ],
            )
        except pymysql.Error as error:
            _undo(conn, live, old, before)
            raise error
        if not tables:
            return []
        try:
            run(conn, [_NO_OP, *creating(old, before)])
        except pymysql.Error as error:
            return [f"{old} has its tables, but not all views, triggers and routines: {error}"]
    return []


def drop(url: str, name: str) -> None:
    """Remove a side or kept database."""
    with _errors(url), _connect(url, None) as conn:
        run(conn, [f"DROP DATABASE IF EXISTS {quote(name)}"])


def _parameters(url: str) -> dict[str, Any]:
    return driver_arguments(url)[1]


@contextmanager
def _errors(url: str) -> Iterator[None]:
    password = str(_parameters(url).get("password") or "")
    with base.driver_errors(pymysql.Error, password, "MySQL"):
        yield


@contextmanager
def _connect(url: str, database: str | None = "") -> Iterator[programs.Connection]:
    """Connect to the live database, to another one, or (None) to none."""
    given = _parameters(url)
    if database is None:
        del given["database"]
    elif database:
        given["database"] = database
    given["client_flag"] = given.get("client_flag", 0) | CLIENT.MULTI_STATEMENTS
    given["charset"] = "utf8mb4"
    # PyMySQL sends a text password as latin-1; the programs, and most people, mean UTF-8:
    # https://github.com/PyMySQL/PyMySQL/blob/main/pymysql/connections.py
    given["password"] = str(given.get("password") or "").encode()
    conn = pymysql.connect(**given, autocommit=True, cursorclass=DictCursor)
    try:
        yield conn
    finally:
        conn.close()


def _command(url: str, tool: str, version: str, *arguments: str) -> Command:
    """Return a client program's command; how to connect stands in its option file."""
    given = _parameters(url)
    password = str(given.get("password") or "")
    options = {key: given.get(key) for key in ("user", "password", "host", "port")}
    if socket := given.get("unix_socket"):
        options["socket"] = socket
    else:
        # To the programs "localhost" means a socket, to the driver it does not.
        options["protocol"] = "tcp"
    tls = given.get("ssl") or {}
    options |= {
        f"ssl-{key}": tls[key] for key in ("ca", "capath", "cert", "key", "cipher") if key in tls
    }
    options |= _tls_checks(bool(tls.get("check_hostname")), "MariaDB" in version)
    lines = [f"{key}={_option(str(value))}" for key, value in options.items() if value is not None]
    return Command((tool, *arguments), options="\n".join(["[client]", *lines, ""]), secret=password)


def _tls_checks(verify: bool, mariadb: bool) -> dict[str, str]:
    """Check the server's certificate exactly when the URL asks for it, as the driver does.

    MariaDB's programs since 11.4 check it unless told otherwise, and so refuse a server with
    the certificate that it made for itself:
    https://mariadb.com/docs/server/security/encryption/data-in-transit-encryption/securing-connections-for-client-and-server
    """
    if mariadb:
        return {"ssl-verify-server-cert": "1" if verify else "0"}
    return {"ssl-mode": "VERIFY_IDENTITY"} if verify else {}


def _option(value: str) -> str:
    """Quote a value of an option file: https://dev.mysql.com/doc/refman/8.4/en/option-files.html"""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _tool(server: str, names: tuple[str, str]) -> tuple[str, str]:
    """Find a program, not older than the server if it is of the same make.

    `names` are Oracle's and MariaDB's, and the one of the server's make is preferred.
    """
    mariadb = "MariaDB" in server
    package = "mariadb-client" if mariadb else "default-mysql-client (or MySQL's mysql-client)"
    path = tools.find(names[::-1] if mariadb else names, package)
    version = tools.version(path)
    same = mariadb == ("MariaDB" in version)
    if same and _major(version) < _major(server):
        raise ToolError(f"{version} is older than the server ({server}): install a newer {package}")
    return path, version


def _refuse_generated_columns(conn: programs.Connection, database: str) -> None:
    """mariadb-dump writes values for MySQL's generated columns, which no server takes back."""
    query = (
        "SELECT TABLE_NAME AS name FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = %s AND EXTRA LIKE '%% GENERATED' LIMIT 1"
    )
    for row in rows(conn, query, database):
        raise ToolError(
            f"the table {row['name']} has a generated column, which MariaDB's dump program gets"
            " wrong on a MySQL server: install MySQL's own mysqldump (package mysql-client)"
        )


def _major(version: str) -> int:
    # MariaDB's programs give a version of their own before that of the distribution.
    match = re.search(r"(\d+)\.\d+\.\d+-MariaDB", version)
    return int(match[1]) if match else tools.major(version)


def _server_version(conn: programs.Connection) -> str:
    return str(rows(conn, "SELECT version() AS v")[0]["v"])


def _tables(conn: programs.Connection, database: str, *, sequences: bool = True) -> list[str]:
    """Return what can be renamed: tables, and MariaDB's sequences."""
    query = (
        "SELECT TABLE_NAME AS name, TABLE_TYPE AS type FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = %s AND TABLE_TYPE NOT LIKE '%%VIEW' ORDER BY name"
    )
    found = rows(conn, query, database)
    return [str(row["name"]) for row in found if sequences or row["type"] != "SEQUENCE"]


def _create(conn: programs.Connection, like: str, name: str) -> None:
    """Create a database with the character set of another, if that exists."""
    found = rows(
        conn,
        "SELECT DEFAULT_CHARACTER_SET_NAME AS charset, DEFAULT_COLLATION_NAME AS collation"
        " FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s",
        like,
    )
    options = "CHARACTER SET {charset} COLLATE {collation}".format(**found[0]) if found else ""
    try:
        run(conn, [f"CREATE DATABASE IF NOT EXISTS {quote(name)} {options}"])
    except pymysql.err.OperationalError as error:
        raise DatabaseError(
            f"{error.args[-1]}: a restore needs the right to create databases,"
            " see the README's chapter on backups"
        ) from None


def _triggers(found: list[programs.Program]) -> list[programs.Program]:
    return [program for program in found if program.kind == "TRIGGER"]


def _wait_for(database: str, tables: list[str]) -> list[str]:
    """Wait for open transactions before the first change, so that none comes in between."""
    locks = ", ".join(f"{quote(database)}.{quote(table)} WRITE" for table in tables)
    return [f"LOCK TABLES {locks}", "UNLOCK TABLES"] if tables else []


def _rename(moves: list[tuple[str, str, str]]) -> str:
    if not moves:
        return _NO_OP
    return "RENAME TABLE " + ", ".join(
        f"{quote(source)}.{quote(table)} TO {quote(target)}.{quote(table)}"
        for source, target, table in moves
    )


def _end_connections(conn: programs.Connection, database: str) -> None:
    """End the other sessions in a database: an open transaction would hold its tables."""
    ours = rows(conn, "SELECT connection_id() AS id")[0]["id"]
    for row in rows(conn, "SHOW PROCESSLIST"):
        if row["db"] == database and row["Id"] != ours:
            # Another user's session, or one that has just ended.
            with suppress(pymysql.err.OperationalError, pymysql.err.InternalError):
                run(conn, [f"KILL {int(row['Id'])}"])


def _undo(conn: programs.Connection, live: str, old: str, before: list[programs.Program]) -> None:
    """After a failed swap, give the live tables their triggers back, if they were not moved."""
    if _tables(conn, old):
        return  # the tables were moved: what failed is a view, trigger or routine after that
    run(conn, [_NO_OP, *dropping(live, _triggers(before)), *creating(live, _triggers(before))])
    run(conn, [f"DROP DATABASE IF EXISTS {quote(old)}"])
