"""PostgreSQL: pg_dump and psql."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from app.backup import tools
from app.backup.engines import base
from app.backup.engines.base import Facts, Snapshot, counting, driver_arguments
from app.backup.errors import DatabaseError, ToolError
from app.backup.tools import Command

SUFFIX = ".sql.gz"
END = b"PostgreSQL database dump complete"

LOCK_WAIT = "60s"  # for a table that is being altered
NAME_LIMIT = 63  # bytes, https://www.postgresql.org/docs/current/limits.html

# Ordinary tables; what belongs to an extension comes back with the extension. Identifiers are
# quoted where needed, so that two tables never share a name.
TABLES = r"""
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't'
      AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1
"""


def database_name(url: str) -> str:
    """Return the database's own name."""
    return str(_parameters(url)["dbname"])


def side_name(url: str, kind: str, stamp: str) -> str:
    """Return the name of a side ("restore") or kept ("old") database."""
    return base.side_name(database_name(url), kind, stamp, NAME_LIMIT)


def others(url: str, kind: str) -> list[str]:
    """Return the side or kept databases of this one, oldest first."""
    with _errors(url), _maintenance(url) as conn:
        rows = conn.execute("SELECT datname FROM pg_database").fetchall()
    return base.of_kind(database_name(url), kind, (name for (name,) in rows), NAME_LIMIT)


@contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """Export a snapshot: pg_dump and our own counting see the same state.

    See https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION
    """
    with _errors(url), _connect(url) as conn:
        tool, versions = _tool(conn, "pg_dump")
        # The transaction idles while pg_dump works: no limit of the role may end it.
        conn.execute(
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN"
            " ('idle_in_transaction_session_timeout', 'statement_timeout', 'transaction_timeout')"
        )
        conn.execute("SELECT set_config('lock_timeout', %s, false)", [LOCK_WAIT])
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        name = _value(conn, "SELECT pg_export_snapshot()")
        arguments = ("--format=plain", f"--snapshot={name}", f"--lock-wait-timeout={LOCK_WAIT}")
        with counting(lambda: _count(conn), conn.cancel) as facts:
            yield Snapshot(_command(url, tool, *arguments), versions, facts)


@contextmanager
def side(url: str, name: str) -> Iterator[Callable[[bytes], object]]:
    """Create a database of that name, like the live one, and let psql fill it."""
    with _errors(url), _maintenance(url) as conn:
        tool, _ = _tool(conn, "psql")
        _create(conn, database_name(url), name)
    arguments = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction")
    # Notices on standard error would hide the one error among them.
    env = {"PGOPTIONS": "-c client_min_messages=warning"}
    with tools.running(_command(url, tool, *arguments, dbname=name, env=env), feed=True) as psql:
        yield tools.writer(psql)
    with _errors(url), _connect(url, name) as conn:
        conn.execute("ANALYZE")  # else the first queries after the swap have no statistics


def facts(url: str, name: str) -> Facts:
    """Count the rows of a database on the same server."""
    with _errors(url), _connect(url, name) as conn:
        return _count(conn)


def swap(url: str, side: str, old: str) -> list[str]:
    """Rename both databases in one transaction; return what could not be carried over.

    The first rename locks the live database, which makes new connections wait, and gives
    those that are open five seconds to end; meanwhile they are told to.
    """
    live = database_name(url)
    with _errors(url), _maintenance(url) as conn, _maintenance(url) as other:
        if not _exists(conn, live):
            _rename(conn, (side, live))
            return []
        warnings = _copy_properties(conn, live, side)
        with ThreadPoolExecutor(1) as pool:
            renamed = pool.submit(_rename, conn, (live, old), (side, live))
            while not wait([renamed], timeout=0.1).done:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname IN (%s, %s) AND (pg_has_role(usesysid, 'MEMBER')"
                    " OR pg_has_role('pg_signal_backend', 'MEMBER'))",
                    [live, side],
                )
            renamed.result()
    return warnings


def drop(url: str, name: str) -> None:
    """Remove a side or kept database; fails if somebody is connected to it."""
    with _errors(url), _maintenance(url) as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def _parameters(url: str) -> dict[str, Any]:
    return driver_arguments(url)[1]


@contextmanager
def _errors(url: str) -> Iterator[None]:
    password = str(_parameters(url).get("password") or "")
    with base.driver_errors(psycopg.Error, password, "PostgreSQL"):
        yield


def _connect(url: str, dbname: str | None = None) -> psycopg.Connection:
    given = {**_parameters(url), **({"dbname": dbname} if dbname else {}), "autocommit": True}
    return psycopg.connect(**{"connect_timeout": 10, **given})


def _maintenance(url: str) -> psycopg.Connection:
    """Connect to a database that is neither the live nor a side one."""
    try:
        return _connect(url, "postgres")
    except psycopg.OperationalError:
        return _connect(url, "template1")


def _command(
    url: str, tool: str, *arguments: str, dbname: str = "", env: dict[str, str] | None = None
) -> Command:
    """Return a libpq program's command: everything but the password in a connection string."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    given = {key: value for key, value in _parameters(url).items() if key in known}
    password = str(given.pop("password", "") or "")
    given.pop("sslpassword", None)
    conninfo = make_conninfo(**{**given, **({"dbname": dbname} if dbname else {})})
    environment = {**(env or {}), **({"PGPASSWORD": password} if password else {})}
    argv = (tool, "--no-password", *arguments, f"--dbname={conninfo}")
    return Command(argv, environment, secret=password)


def _tool(conn: psycopg.Connection, name: str) -> tuple[str, dict[str, str]]:
    """Find pg_dump or psql, not older than the server."""
    server = conn.info.server_version // 10000
    package = f"postgresql-client-{server}"
    path = tools.find((name,), package)
    version = tools.version(path)
    if tools.major(version) < server:
        raise ToolError(
            f"{version} is older than the server ({server}): install the Debian package {package}"
        )
    return path, {"server": str(_value(conn, "SHOW server_version")), "tool": version}


def _value(conn: psycopg.Connection, query: str, *values: object) -> Any:
    row = conn.execute(query.encode(), values or None).fetchone()
    return row[0] if row else None


def _exists(conn: psycopg.Connection, name: str) -> bool:
    return _value(conn, "SELECT 1 FROM pg_database WHERE datname = %s", name) is not None


def _count(conn: psycopg.Connection) -> Facts:
    names = [name for (name,) in conn.execute(TABLES.encode()).fetchall()]
    tables = {name: int(_value(conn, f"SELECT count(*) FROM ONLY {name}")) for name in names}
    versions = [name for name in names if name.endswith(".alembic_version")]
    revision = _value(conn, f"SELECT version_num FROM {versions[0]}") if versions else None
    return Facts(tables, revision)


def _create(conn: psycopg.Connection, live: str, name: str) -> None:
    """Create an empty database with the live one's owner, encoding and locale, if it exists."""
    options: sql.Composable = sql.SQL("")
    row = conn.execute(
        "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype,"
        " to_jsonb(d) FROM pg_database d WHERE datname = %s",
        [live],
    ).fetchone()
    if row:
        owner, encoding, collate, ctype, record = row
        options = sql.SQL("OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
            sql.Identifier(owner), sql.Literal(encoding), sql.Literal(collate), sql.Literal(ctype)
        )
        # The column is daticulocale in PostgreSQL 15 and 16, datlocale since 17.
        if record.get("datlocprovider") == "i":
            locale = record.get("datlocale") or record.get("daticulocale")
            options += sql.SQL(" LOCALE_PROVIDER icu ICU_LOCALE {}").format(sql.Literal(locale))
    try:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(
                sql.Identifier(name), options
            )
        )
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"{error.diag.message_primary}: a restore needs a role with CREATEDB,"
            " see the README's chapter on backups"
        ) from None


def _rename(conn: psycopg.Connection, *pairs: tuple[str, str]) -> None:
    with conn.transaction():
        for before, after in pairs:
            conn.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(before), sql.Identifier(after)
                )
            )


def _copy_properties(conn: psycopg.Connection, live: str, side: str) -> list[str]:
    """Carry over what belongs to a database but is in no dump of it: settings and rights."""
    statements = [*_settings(conn, live, side), *_rights(conn, live, side)]
    warnings = []
    for statement in statements:
        try:
            conn.execute(statement)
        except psycopg.Error as error:
            warnings.append(f"{statement.as_string(conn)}: {error.diag.message_primary}")
    return warnings


def _settings(conn: psycopg.Connection, live: str, side: str) -> Iterator[sql.Composed]:
    rows = conn.execute(
        "SELECT pg_get_userbyid(nullif(setrole, 0)), split_part(item, '=', 1),"
        " substr(item, strpos(item, '=') + 1)"
        " FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase,"
        " unnest(setconfig) item WHERE datname = %s",
        [live],
    ).fetchall()
    for role, name, value in rows:
        whose: sql.Composable = sql.SQL("DATABASE {}").format(sql.Identifier(side))
        if role:
            whose = sql.SQL("ROLE {} IN {}").format(sql.Identifier(role), whose)
        yield sql.SQL("SELECT set_config({}, {}, false)").format(
            sql.Literal(name), sql.Literal(value)
        )
        # FROM CURRENT keeps lists such as search_path as they are, without quoting them again.
        yield sql.SQL("ALTER {} SET {} FROM CURRENT").format(whose, sql.Identifier(name))


def _rights(conn: psycopg.Connection, live: str, side: str) -> Iterator[sql.Composed]:
    rows = conn.execute(
        "SELECT nullif(grantee, 0), pg_get_userbyid(grantee), privilege_type, is_grantable"
        " FROM pg_database, aclexplode(datacl) WHERE datname = %s",
        [live],
    ).fetchall()
    name = sql.Identifier(side)
    if rows:
        yield sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name)
    for grantee, role, privilege, grantable in rows:
        yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
            sql.SQL(privilege),
            name,
            sql.Identifier(role) if grantee else sql.SQL("PUBLIC"),
            sql.SQL(" WITH GRANT OPTION" if grantable else ""),
        )
