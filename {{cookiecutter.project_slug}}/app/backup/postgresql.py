"""PostgreSQL: pg_dump and psql."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import chain
from pathlib import Path
from shutil import copyfileobj, which
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from app.backup import base, programs
from app.backup.base import Dumped, Facts, Reader, Writer, chunks, driver_arguments
from app.backup.errors import BusyError, DatabaseError, InvalidBackupError, ToolError
from app.backup.programs import Command

SUFFIX = ".sql.gz"

NAME_LIMIT = 63  # bytes, https://www.postgresql.org/docs/current/limits.html
# Where packages for several versions put their programs (Debian, Red Hat).
FOLDERS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
# No setting of the role or of the database may stop a dump or a restore half way.
OPTIONS = (
    " -c statement_timeout=0 -c lock_timeout=60s -c idle_in_transaction_session_timeout=0"
    " -c idle_session_timeout=0 -c default_transaction_read_only=off -c row_security=off"
    " -c client_min_messages=warning"
)
# The first statement of a dump: it allows nothing but SQL until the same key comes again.
# https://www.postgresql.org/docs/current/app-psql.html#APP-PSQL-META-COMMAND-RESTRICT
RESTRICT = re.compile(rb"(?:--[^\n]*\n|\s)*\\restrict (\w+)\n")
# pg_dump 17 writes a setting that an older server does not know.
NEW_SETTING = b"SET transaction_timeout = 0;\n"
PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
# Settings that are lists of names, whose stored text is already quoted.
LISTS = ("search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries")

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
# What belongs to a database but is in no dump of it.
PROPERTIES = """
    SELECT to_jsonb(d) - '{oid,datdba,datacl,datfrozenxid,datminmxid,dattablespace}'::text[]
      || jsonb_build_object(
        'owner', pg_get_userbyid(datdba),
        'encoding', pg_encoding_to_char(encoding),
        'tablespace', spcname,
        'comment', shobj_description(d.oid, 'pg_database'),
        'settings', (SELECT jsonb_agg(jsonb_build_array(
                pg_get_userbyid(nullif(setrole, 0)),
                split_part(item, '=', 1), substr(item, strpos(item, '=') + 1)))
            FROM pg_db_role_setting, unnest(setconfig) item WHERE setdatabase = d.oid),
        'rights', (SELECT jsonb_agg(jsonb_build_array(
                CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) END,
                privilege_type, is_grantable))
            FROM aclexplode(datacl)))
    FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = %s
"""
# What a restore of this database leaves out, or cannot do as the present role.
NOTES = """
    SELECT format('the subscription %I is not in the backup: create it again', subname)
    FROM pg_subscription JOIN pg_database d ON d.oid = subdbid AND datname = current_database()
    UNION ALL
    SELECT format('the extension %I needs a superuser for a restore: set BACKUP_DATABASE_URL', extname)
    FROM pg_extension JOIN pg_available_extension_versions
      ON name = extname AND version = extversion
    WHERE superuser AND NOT trusted
      AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
"""


def database_name(url: str) -> str:
    """Return the database's own name."""
    return str(_parameters(url)["dbname"])


def server_id(url: str) -> str:
    """Return the identifier that ``initdb`` gave to the server's data."""
    with _errors(url), _maintenance(url) as conn:
        return str(_value(conn, "SELECT system_identifier FROM pg_control_system()"))


def side_name(url: str, kind: str, stamp: str) -> str:
    """Return the name of a side ("restore") or kept ("old") database."""
    return base.side_name(database_name(url), kind, stamp, NAME_LIMIT)


def side_databases(url: str, kind: str) -> list[str]:
    """Return the side or kept databases of this one, oldest first."""
    with _errors(url), _maintenance(url) as conn:
        rows = conn.execute("SELECT datname FROM pg_database").fetchall()
    return base.of_kind(database_name(url), kind, (name for (name,) in rows), NAME_LIMIT)


@contextmanager
def locked(url: str, wait: float) -> Iterator[None]:
    """Hold this database's lock on the server; wait up to ``wait`` seconds for another holder."""
    # In the maintenance database: an advisory lock belongs to one, and the live one is renamed.
    name = f"backup of {database_name(url)}".encode()
    key = int.from_bytes(sha256(name).digest()[:8], signed=True)
    with _errors(url), _maintenance(url) as conn:
        if not base.poll(lambda: _value(conn, "SELECT pg_try_advisory_lock(%s)", key), wait):
            raise BusyError("another backup or restore of this database is running: try later")
        try:
            yield
        finally:
            # The end of the connection releases the lock as well, but a moment later.
            with suppress(psycopg.Error):
                _value(conn, "SELECT pg_advisory_unlock(%s)", key)


def dump(url: str, target: Writer) -> Dumped:
    """Dump one exported snapshot, in which the rows are counted as well.

    https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION
    """
    with _errors(url), _connect(url) as conn, ThreadPoolExecutor(1) as pool:
        tool, version = _tool(conn, "pg_dump")
        properties = _value(conn, PROPERTIES, database_name(url))
        notes = [note for (note,) in conn.execute(NOTES).fetchall()]
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = _value(conn, "SELECT pg_export_snapshot()")
        arguments = (f"--snapshot={snapshot}", "--lock-wait-timeout=60000", "--no-subscriptions")
        with programs.running(_command(url, tool, *arguments)) as output:
            counted = pool.submit(_count, conn)
            try:
                head = output.read(base.CHUNK)
                if head and not RESTRICT.match(head):
                    raise ToolError(
                        f"{version} does not write \\restrict: install its latest minor release"
                    )
                if conn.info.server_version < 170000 and NEW_SETTING in head:
                    head = head.replace(NEW_SETTING, b"", 1)
                    version += ", without its setting transaction_timeout"
                target.write(head)
                copyfileobj(output, target, base.CHUNK)
            except BaseException:
                conn.cancel()
                raise
        server = str(_value(conn, "SHOW server_version"))
        return Dumped(counted.result(), {"server": server, "tool": version}, properties, notes)


def inspect(source: Reader) -> None:
    """Read a dump to its end; refuse one in which psql would run anything but SQL.

    Between ``\\restrict KEY`` and ``\\unrestrict KEY`` psql takes no other command of its own. So
    the first must stand before any statement, the second at the very end, and the key nowhere else.
    """
    head = source.read(base.CHUNK)
    match = RESTRICT.match(head)
    if match is None:
        raise InvalidBackupError("does not begin with \\restrict: it may run programs")
    key = match[1]
    count, tail = 0, b""
    for chunk in chain([head], chunks(source)):
        window = tail + chunk
        count += window.count(key) - tail.count(key)  # the tail's have been counted before
        tail = window[-len(key) - 64 :]
    if count != 2 or not tail.rstrip().endswith(b"\\unrestrict " + key):
        raise InvalidBackupError("has commands after \\unrestrict, or no end: it may run programs")


def load(url: str, side: str, source: Reader, properties: dict[str, Any]) -> None:
    """Create a database like the live one, and let psql fill it."""
    with _errors(url), _maintenance(url) as conn:
        tool, _ = _tool(conn, "psql")
        wanted = _wanted(conn, url, properties)
        _create(conn, side, wanted)
        # Rows may depend on settings. ``swap`` reports those that cannot be set.
        _set_properties(conn, side, {"settings": wanted["settings"]})
    # Each statement by itself: one transaction would need a lock for every object.
    arguments = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1")
    command = _command(url, tool, *arguments, side=side, options=" -c synchronous_commit=off")
    with programs.running(command, feed=True) as psql:
        copyfileobj(source, psql, base.CHUNK)
    with _errors(url), _connect(url, side) as conn:
        conn.execute("ANALYZE")  # else the first queries after the swap have no statistics


def facts(url: str, side: str | None) -> Facts:
    """Count the rows of a side database, or of the live one; none if it does not exist."""
    with _errors(url):
        with _maintenance(url) as conn:
            name = side or database_name(url)
            if not _value(conn, "SELECT 1 FROM pg_database WHERE datname = %s", name):
                return Facts({}, None)
        with _connect(url, side) as conn:
            return _count(conn)


def swap(url: str, side: str, old: str, properties: dict[str, Any]) -> list[str]:
    """Rename both databases in one transaction; return what could not be carried over.

    The first rename locks the live database, which makes new connections wait, and gives
    those that are open five seconds to end; meanwhile they are terminated.
    """
    live = database_name(url)
    with _errors(url), _maintenance(url) as conn, _maintenance(url) as other:
        warnings = _set_properties(conn, side, _wanted(conn, url, properties))
        if not _value(conn, PROPERTIES, live):
            _rename(conn, (side, live))
            return warnings
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
    """Remove a side or kept database, and end the sessions in it."""
    with _errors(url), _maintenance(url) as conn:
        conn.execute(_sql("DROP DATABASE IF EXISTS {} WITH (FORCE)", name))


def _parameters(url: str) -> dict[str, Any]:
    found = driver_arguments(url)[1]
    return {**found, "options": f"-c role=none {found.get('options') or ''}{OPTIONS}"}


@contextmanager
def _errors(url: str) -> Iterator[None]:
    password = str(_parameters(url).get("password") or "")
    with base.driver_errors(psycopg.Error, password, "PostgreSQL"):
        yield


def _connect(url: str, dbname: str | None = None) -> psycopg.Connection:
    given = {**_parameters(url), **({"dbname": dbname} if dbname else {}), "autocommit": True}
    conn = psycopg.connect(**{"connect_timeout": 10, **given})
    if conn.info.server_version >= 170000:
        conn.execute("SET transaction_timeout = 0")
    return conn


def _maintenance(url: str) -> psycopg.Connection:
    """Connect to a database that is neither the live nor a side one."""
    try:
        return _connect(url, "postgres")
    except psycopg.OperationalError:
        return _connect(url, "template1")


def _command(url: str, tool: str, *arguments: str, side: str = "", options: str = "") -> Command:
    """Return the command of a program, with everything but the password in a connection string."""
    # Only what the URL gives: the driver's libpq may know options that the program's does not.
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    given = {key: value for key, value in _parameters(url).items() if key in known}
    password = str(given.pop("password", "") or "")
    given.pop("sslpassword", None)
    given["options"] += options
    conninfo = make_conninfo(**{**given, **({"dbname": side} if side else {})})
    return Command(
        (tool, "--no-password", *arguments, f"--dbname={conninfo}"),
        env={"PGPASSWORD": password} if password else {},
        secret=password,
    )


def _tool(conn: psycopg.Connection, name: str) -> tuple[str, str]:
    """Return the path and version of a program: the server's own version, else the next newer."""
    server = conn.info.server_version // 10000
    paths = [str(path) for folder in FOLDERS for path in Path("/").glob(f"{folder}/{name}")]
    versions = {path: programs.version(path) for path in [*paths, which(name)] if path}
    package = f"postgresql-client-{server}"
    if not versions:
        raise ToolError(f"{name} is not installed: install the Debian package {package}")
    oldest_first = sorted(versions, key=lambda path: _major(versions[path]))
    for path in oldest_first:
        if _major(versions[path]) >= server:
            return path, versions[path]
    raise ToolError(
        f"{versions[oldest_first[-1]]} is older than the server ({server}): install the Debian"
        f" package {package}"
    )


def _major(version: str) -> int:
    match = re.search(r"\) (\d+)", version)
    return int(match[1]) if match else 0


def _value(conn: psycopg.Connection, query: str, *values: object) -> Any:
    row = conn.execute(query.encode(), values or None).fetchone()
    return row[0] if row else None


def _count(conn: psycopg.Connection) -> Facts:
    names = [name for (name,) in conn.execute(TABLES.encode()).fetchall()]
    tables = {}
    for name in names:
        # Each in a transaction (here: a savepoint) that ends: its locks end with it.
        with conn.transaction(force_rollback=True):
            tables[name] = int(_value(conn, f"SELECT count(*) FROM ONLY {name}"))
    versions = [name for name in names if name.endswith(".alembic_version")]
    revision = _value(conn, f"SELECT version_num FROM {versions[0]}") if versions else None
    return Facts(tables, revision)


def _sql(template: str, *names: str) -> sql.Composed:
    return sql.SQL(template).format(*map(sql.Identifier, names))


def _wanted(conn: psycopg.Connection, url: str, backup: dict[str, Any]) -> dict[str, Any]:
    """Return the live database's properties; what is not there, or not set, is the backup's."""
    live = _value(conn, PROPERTIES, database_name(url)) or backup
    return {**live, "settings": live.get("settings") or backup.get("settings")}


def _create(conn: psycopg.Connection, name: str, properties: dict[str, Any]) -> None:
    """Create an empty database with the given owner, encoding, locale and tablespace."""
    record = properties.get
    owner, tablespace = record("owner", ""), record("tablespace", "")
    options: list[sql.Composable] = [_sql("CREATE DATABASE {} TEMPLATE template0", name)]
    if _value(conn, "SELECT 1 FROM pg_roles WHERE rolname = %s", owner):
        options.append(_sql("OWNER {}", owner))
    exists = _value(conn, "SELECT 1 FROM pg_tablespace WHERE spcname = %s", tablespace)
    if exists and tablespace != "pg_default":
        options.append(_sql("TABLESPACE {}", tablespace))
    # The column is daticulocale in PostgreSQL 15 and 16, datlocale since 17.
    locale = record("datlocale") or record("daticulocale")
    provider = PROVIDERS.get(record("datlocprovider") or "")
    literals = {
        "ENCODING": record("encoding"),
        "LC_COLLATE": record("datcollate"),
        "LC_CTYPE": record("datctype"),
        "LOCALE_PROVIDER": provider,
        "ICU_LOCALE": locale if provider == "icu" else None,
        "ICU_RULES": record("daticurules"),
        "BUILTIN_LOCALE": locale if provider == "builtin" else None,
    }
    for keyword, value in literals.items():
        if value:
            options += [sql.SQL(keyword), sql.Literal(value)]
    try:
        conn.execute(sql.SQL(" ").join(options))
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"{error.diag.message_primary}: a restore needs a role with CREATEDB, which can be"
            " given in BACKUP_DATABASE_URL, see docs/backups.md"
        ) from None


def _rename(conn: psycopg.Connection, *pairs: tuple[str, str]) -> None:
    with conn.transaction():
        for before, after in pairs:
            conn.execute(_sql("ALTER DATABASE {} RENAME TO {}", before, after))


def _set_properties(conn: psycopg.Connection, name: str, properties: dict[str, Any]) -> list[str]:
    """Set comment, connection limit, settings and rights; return what could not be set."""
    warnings = []
    for statement in _properties(name, properties):
        try:
            conn.execute(statement)
        except psycopg.Error as error:
            warnings.append(f"{statement.as_string(conn)}: {error.diag.message_primary}")
    return warnings


def _properties(name: str, properties: dict[str, Any]) -> Iterator[sql.Composed]:
    if properties.get("comment"):
        comment = sql.Literal(properties["comment"])
        yield sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), comment)
    if properties.get("datconnlimit", -1) >= 0:
        limit = sql.Literal(properties["datconnlimit"])
        yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(sql.Identifier(name), limit)
    for role, setting, value in properties.get("settings") or []:
        whose = _sql("ROLE {} IN DATABASE {}", role, name) if role else _sql("DATABASE {}", name)
        new = sql.SQL(value) if setting in LISTS else sql.Literal(value)
        yield sql.SQL("ALTER {} SET {} TO {}").format(whose, sql.Identifier(setting), new)
    if properties.get("rights"):
        yield _sql("REVOKE ALL ON DATABASE {} FROM PUBLIC", name)
    for role, privilege, grantable in properties.get("rights") or []:
        yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
            sql.SQL(privilege),
            sql.Identifier(name),
            sql.Identifier(role) if role else sql.SQL("PUBLIC"),
            sql.SQL(" WITH GRANT OPTION" if grantable else ""),
        )
