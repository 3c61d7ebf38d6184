"""MySQL and MariaDB: mysqldump or mariadb-dump, and the matching client."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from shutil import which
from typing import Any, TypeAlias

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor

from app.backup import base, programs
from app.backup.base import Dumped, Facts, Reader, Writer, chunks, driver_arguments
from app.backup.errors import BusyError, DatabaseError, InvalidBackupError, ToolError
from app.backup.programs import Command

Connection: TypeAlias = "pymysql.connections.Connection[DictCursor]"

SUFFIX = ".sql.gz"

NAME_LIMIT = 64  # characters, https://dev.mysql.com/doc/refman/8.4/en/identifier-length.html
LOCK_WAIT = 10  # seconds for which the swap waits for a table
# A statement starts a line: a newline inside a value is always written as \n.
CREATE = re.compile(rb"^CREATE TABLE (?:IF NOT EXISTS )?`((?:[^`]|``)+)` \(", re.MULTILINE)
INSERT = re.compile(
    rb"^INSERT INTO `((?:[^`]|``)+)` (?:\((?:(?:`(?:[^`]|``)+`|\w+)(?:, ?)?)+\) )?VALUES",
    re.MULTILINE,
)
REVISION = re.compile(rb"\('([^'\\]*)'\)")
NAME = r"(?:`(?:[^`]|``)+`|[\w$]+)"
# The header of a trigger, whose names may be qualified with the database's.
TRIGGER = re.compile(
    rf"\b(TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?)(?:{NAME}\s*\.\s*)?({NAME}\s+(?:BEFORE|AFTER)\s+"
    rf"(?:INSERT|UPDATE|DELETE)\s+ON\s+)(?:{NAME}\s*\.\s*)?({NAME}\s+FOR\s+EACH\s+ROW)",
    re.IGNORECASE,
)
# The end of a trigger, routine or event in a dump. The definition itself may end in a comment or, in
# MySQL when several statements were sent at once, in a semicolon: neither can be restored.
ENDING = re.compile(
    r";?([ \n]{1,2}(?:\*/ ?)?;;\n(?:DELIMITER ;|/\*!50003 SET time_zone += @saved))"
)
# Statements by which a file could leave the database into which it is restored.
ELSEWHERE = re.compile(
    rb"^(?:USE|(?:CREATE|DROP|ALTER) (?:DATABASE|SCHEMA))\s", re.MULTILINE | re.I
)

ROUTINES = (
    "SELECT ROUTINE_NAME AS name FROM information_schema.ROUTINES"
    " WHERE ROUTINE_SCHEMA = %s AND ROUTINE_TYPE = '{}'"
)
# What RENAME TABLE does not move, in the order in which it can be created.
PROGRAMS = {
    "FUNCTION": ROUTINES.format("FUNCTION"),
    "PACKAGE": ROUTINES.format("PACKAGE"),
    "PACKAGE BODY": ROUTINES.format("PACKAGE BODY"),
    "VIEW": "SELECT TABLE_NAME AS name FROM information_schema.VIEWS WHERE TABLE_SCHEMA = %s",
    "PROCEDURE": ROUTINES.format("PROCEDURE"),
    "TRIGGER": "SELECT TRIGGER_NAME AS name FROM information_schema.TRIGGERS"
    " WHERE TRIGGER_SCHEMA = %s ORDER BY EVENT_OBJECT_TABLE, ACTION_ORDER",
    "EVENT": "SELECT EVENT_NAME AS name FROM information_schema.EVENTS WHERE EVENT_SCHEMA = %s",
}


def database_name(url: str) -> str:
    """Return the database's own name."""
    return str(_parameters(url)["database"])


def server_id(url: str) -> str:
    """Return MySQL's own identifier of the server; MariaDB has none, so its address."""
    with _errors(url), _connect(url, None) as conn:
        found = rows(conn, "SHOW VARIABLES LIKE 'server_uuid'")
    given = _parameters(url)
    address = given.get("unix_socket") or f"{given.get('host')}:{given.get('port', 3306)}"
    return str(found[0]["Value"]) if found else str(address)


def side_name(url: str, kind: str, stamp: str) -> str:
    """Return the name of a side ("restore") or kept ("old") database."""
    return base.side_name(database_name(url), kind, stamp, NAME_LIMIT)


def side_databases(url: str, kind: str) -> list[str]:
    """Return the side or kept databases of this one, oldest first."""
    with _errors(url), _connect(url, None) as conn:
        names = [row["Database"] for row in rows(conn, "SHOW DATABASES")]
    return base.of_kind(database_name(url), kind, names, NAME_LIMIT)


@contextmanager
def locked(url: str, wait: float) -> Iterator[None]:
    """Hold this database's lock on the server; wait up to ``wait`` seconds for another holder."""
    name = "backup_" + sha256(database_name(url).encode()).hexdigest()[:40]
    with _errors(url):
        conn = _connect(url, None)
    with conn:
        with _errors(url):
            run(conn, ["SET SESSION wait_timeout = 2000000"])  # seconds for which it may idle
            free = rows(conn, "SELECT GET_LOCK(%s, %s) AS free", name, wait)[0]["free"]
        if not free:
            raise BusyError("another backup or restore of this database is running: try later")
        try:
            yield
        finally:
            # The end of the connection releases the lock as well, but a moment later.
            with suppress(pymysql.err.Error):
                rows(conn, "SELECT RELEASE_LOCK(%s) AS released", name)


def dump(url: str, target: Writer) -> Dumped:
    """Dump in one transaction; rows are counted in the dump itself.

    MySQL cannot share one transaction's view with another connection, and a lock on all tables
    would stop the application. The file has four parts: routines; tables with their rows, and
    views; triggers; events, which a side database does not get, because they would run there.
    """
    live = database_name(url)
    with _errors(url), _connect(url) as conn:
        server = _server_version(conn)
        tool, version = _tool(server, ("mysqldump", "mariadb-dump"))
        _refuse_what_is_hidden(conn, live)
        _refuse_columns(conn, live, server, version)
        _refuse_libraries(conn, live)
        history = _history(conn, live, version)
        found = rows(
            conn,
            "SELECT @@max_allowed_packet AS packet, @@character_set_database AS c,"
            " @@collation_database AS o",
        )[0]
        events = [one for one in read(conn, live) if one.kind == "EVENT"]

    def command(*arguments: str) -> Command:
        options = ["--default-character-set=utf8mb4", "--no-tablespaces", *arguments]
        options.append("--skip-lock-tables")  # a lock would wait for every open transaction
        if "MariaDB" not in version:
            options += ["--set-gtid-purged=OFF", "--column-statistics=0"]
        return _command(url, tool, version, *options, "--", live)

    only = ("--no-data", "--no-create-info")
    counter = RowCounter(live.encode())
    meter = base.Meter(target)
    meter.write(_programs(command(*only, "--skip-triggers", "--routines")))
    content = ["--single-transaction", "--quick", "--skip-triggers", "--max-allowed-packet=1G"]
    # A locked table could not take its defaults from a sequence.
    content += ["--skip-add-locks", *history]
    with programs.running(command(*content)) as output:
        for block in iter(lambda: output.read(base.CHUNK) + output.readline(), b""):
            meter.write(counter.feed(block))
    meter.write(_programs(command(*only, "--triggers")))
    loaded = meter.done
    meter.write(_programs(command(*only, "--skip-triggers", "--events")))
    if counter.longest >= found["packet"]:
        raise DatabaseError(
            f"a row of {counter.longest} bytes could not be restored: raise the server's"
            f" max_allowed_packet, which is {found['packet']}"
        )
    return Dumped(
        Facts(dict(sorted(counter.tables.items())), counter.revision),
        {"server": server, "tool": version},
        {
            "charset": found["c"],
            "collation": found["o"],
            "side_bytes": loaded,
            "events": [[event.name, event.statements] for event in events],
        },
    )


def inspect(source: Reader) -> None:
    """Read a dump to its end; refuse one that would write to another database."""
    rest = b""
    for chunk in chunks(source):
        text = rest + chunk
        if match := ELSEWHERE.search(text):
            line = match[0].decode().strip()
            raise InvalidBackupError(f"has the statement {line}, which would leave its database")
        rest = text[text.rfind(b"\n") + 1 :][-200:]


def load(url: str, side: str, source: Reader, properties: dict[str, Any]) -> None:
    """Create a database like the live one, and let the client fill it."""
    with _errors(url), _connect(url, None) as conn:
        tool, version = _tool(_server_version(conn), ("mysql", "mariadb"))
        _create(conn, side, database_name(url), properties)
    # With --binary-mode the client runs SQL only: no \!, no system, no source.
    arguments = ["--batch", "--binary-mode", "--comments", "--default-character-set=utf8mb4"]
    arguments += ["--max-allowed-packet=1G", f"--database={side}"]
    left = properties.get("side_bytes", 0)
    with programs.running(_command(url, tool, version, *arguments), feed=True) as client:
        for chunk in chunks(source):
            part = chunk[:left]
            left -= len(part)
            client.write(part)


def facts(url: str, side: str | None) -> Facts:
    """Count the rows of a side database, or of the live one; none if it does not exist."""
    name = side or database_name(url)
    with _errors(url), _connect(url, None) as conn:
        tables = {}
        for table, kind in _tables(conn, name).items():
            history = " FOR SYSTEM_TIME ALL" if kind == "SYSTEM VERSIONED" else ""
            query = f"SELECT count(*) AS n FROM {quote(name)}.{quote(table)}{history}"
            if kind != "SEQUENCE":
                tables[table] = int(rows(conn, query)[0]["n"])
        revision = None
        if "alembic_version" in tables:
            found = rows(conn, f"SELECT version_num AS v FROM {quote(name)}.alembic_version")
            revision = found[0]["v"] if found else None
        return Facts(tables, revision)


def swap(url: str, side: str, old: str, properties: dict[str, Any]) -> list[str]:
    """Move all tables of both databases by one RENAME TABLE; return what went wrong after it.

    MySQL cannot rename a database, nor move triggers, views, routines and events: their
    definitions are read before, and all is sent in one packet, which the server has as a whole.
    """
    live = database_name(url)
    with _errors(url), _connect(url, None) as conn:
        _create(conn, live, side, properties)  # if it is gone
        tables = list(_tables(conn, live))
        before, after = read(conn, live), read(conn, side)
        after += [Program("EVENT", name, tuple(made)) for name, made in properties["events"]]
        kept = [program for program in before if program.kind != "EVENT"]
        if tables:
            _create(conn, old, live, properties)
        moves = [(live, old, table) for table in tables]
        moves += [(side, live, table) for table in _tables(conn, side)]
        run(conn, dropping(side, _of_kind(after, "TRIGGER")))
        _end_connections(conn, live)
        try:
            run(
                conn,
                [
                    f"SET lock_wait_timeout = {LOCK_WAIT}, foreign_key_checks = 0",
                    *_wait_for(live, tables),
                    *dropping(live, _of_kind(before, "TRIGGER")),
                    *_rename(moves),
                    *dropping(live, before),
                    *_sequence_defaults(conn, side, live),
                    *creating(live, after),
                ],
            )
            _tidy(conn, live)
        except pymysql.Error as error:
            if not _tables(conn, old):  # nothing was moved: the live tables get their triggers back
                triggers = _of_kind(before, "TRIGGER")
                run(conn, [*dropping(live, triggers), *creating(live, triggers)])
                _tidy(conn, live)
                run(conn, [f"DROP DATABASE IF EXISTS {quote(old)}"])
                raise
            with suppress(pymysql.Error):
                run(conn, creating(old, kept))
            reason = base.one_line(str(error))
            raise DatabaseError(
                f"the tables were swapped, and {old} has the former ones, but a view, trigger,"
                f" routine or event of {live} could not be created: {reason}"
            ) from None
        if not tables:
            return []
        try:
            run(conn, [*_sequence_defaults(conn, live, old, old), *creating(old, kept)])
            _tidy(conn, old)
        except pymysql.Error as error:
            return [f"{old} has its tables, but not all views, triggers and routines: {error}"]
    return []


def drop(url: str, name: str) -> None:
    """Remove a side or kept database."""
    with _errors(url), _connect(url, None) as conn:
        run(conn, [f"DROP DATABASE IF EXISTS {quote(name)}"])


class RowCounter:
    """Counts the rows of each table in the output of mysqldump or mariadb-dump.

    ``tables`` has the count for each table, ``revision`` is Alembic's, ``longest`` the length of
    the longest line in bytes.
    """

    def __init__(self, database: bytes) -> None:
        self.tables: dict[str, int] = {}
        self.revision: str | None = None
        self.longest = 0
        self._table: str | None = None
        # A default names its sequence with the database: it must work in any other one.
        self._qualified = b"val(`" + database.replace(b"`", b"``") + b"`."

    def feed(self, block: bytes) -> bytes:
        """Take the next complete lines; return them as they are to be written."""
        if len(block) > 2 * base.CHUNK:
            self.longest = max(self.longest, *map(len, block.split(b"\n")))
        parts, start = [], 0
        while start < len(block):
            if self._table is None:
                match = INSERT.search(block, start)
                end = match.end() if match else len(block)
                parts.append(block[start:end].replace(self._qualified, b"val("))
                for created in CREATE.finditer(block, start, end):
                    self.tables.setdefault(_name(created), 0)
                if match:
                    self._table = _name(match)
                    self.tables[self._table] = self.tables.get(self._table, 0) + 1
            else:
                last = block.find(b";\n", start)
                end = last + 2 if last >= 0 else len(block)
                parts.append(block[start:end])
                self._count(parts[-1], self._table)
                self._table = self._table if last < 0 else None
            start = end
        return b"".join(parts)

    def _count(self, values: bytes, table: str) -> None:
        # Without escaped characters every quote begins or ends a string.
        plain = values.replace(b"\\\\", b"").replace(b"\\'", b"")
        outside = b"'".join(plain.split(b"'")[::2])
        self.tables[table] += outside.count(b"),(") + outside.count(b"),\n")
        if table == "alembic_version" and (found := REVISION.search(values)):
            self.revision = found[1].decode()


@dataclass(frozen=True)
class Program:
    """One trigger, view, routine or event, and the statements that create it."""

    kind: str
    name: str
    statements: tuple[str, ...]


def quote(name: str) -> str:
    """Return a quoted identifier."""
    return "`" + name.replace("`", "``") + "`"


def rows(conn: Connection, query: str, *values: object) -> list[dict[str, Any]]:
    """Return all rows of a query."""
    with conn.cursor() as cursor:
        cursor.execute(query, values or None)
        return list(cursor.fetchall())


def run(conn: Connection, statements: Iterable[str]) -> None:
    """Send statements in one packet: the server has them all before it starts."""
    # A body may end in a comment, so the separator stands on a line of its own.
    with conn.cursor() as cursor:
        cursor.execute("\n;\n".join(["DO 0", *statements]))
        while cursor.nextset():
            pass


def read(conn: Connection, database: str) -> list[Program]:
    """Read the definitions of a database, in the order in which they can be created."""
    # With the database in use, a view's text names its tables without the database.
    conn.select_db(database)
    run(conn, ["SET sql_mode = ''"])  # else definitions may be quoted as in another mode
    found = {
        kind: [_program(conn, kind, str(row["name"])) for row in rows(conn, query, database)]
        for kind, query in PROGRAMS.items()
    }
    found["VIEW"] = _ordered(found["VIEW"])
    return sum(found.values(), [])


def creating(database: str, wanted: Iterable[Program]) -> list[str]:
    """Return the statements that create programs in that database."""
    made = [statement for program in wanted for statement in program.statements]
    return [f"USE {quote(database)}", *made] if made else []


def dropping(database: str, unwanted: Iterable[Program]) -> list[str]:
    """Return the statements that remove programs from that database."""
    drops = [
        f"DROP {program.kind} IF EXISTS {quote(database)}.{quote(program.name)}"
        for program in unwanted
    ]
    # Packages are known in this mode only: https://mariadb.com/docs/server/reference/sql-statements/stored-procedures/drop-package
    has_packages = any(drop.startswith("DROP PACKAGE") for drop in drops)
    return ["SET sql_mode = ORACLE", *drops] if has_packages else drops


def _tidy(conn: Connection, database: str) -> None:
    """Create again, at the end of a packet, what MySQL stored with the separator after it."""
    if "MariaDB" in _server_version(conn):
        return
    found = read(conn, database)
    kinds = {one.kind for one in found if one.statements[-1].endswith(";")}
    for program in found:  # all of a kind: triggers keep their order
        if program.kind in kinds:
            run(conn, [*dropping(database, [program]), *creating(database, [program])])


def _program(conn: Connection, kind: str, name: str) -> Program:
    row = rows(conn, f"SHOW CREATE {kind} {quote(name)}")[0]
    body = row.get("SQL Original Statement") or row.get(f"Create {kind.title()}")
    if not body:
        raise DatabaseError(
            f"the {kind.lower()} {name} cannot be read: grant this user SELECT ON mysql.proc"
            " (MariaDB) or SHOW_ROUTINE ON *.* (MySQL)"
        )
    mode = f"'{row['sql_mode']}'" if "sql_mode" in row else "@@global.sql_mode"
    settings = [
        f"SET collation_connection = {row['collation_connection']}",
        f"SET sql_mode = {mode}",
    ]
    if "time_zone" in row:
        settings.append(f"SET time_zone = '{row['time_zone']}'")
    return Program(kind, name, (*settings, _unqualified(str(body))))


def _unqualified(text: str) -> str:
    """Let a trigger be created in the database in use, whatever it was qualified with."""
    return TRIGGER.sub(r"\1\2\3", text)


def _of_kind(found: list[Program], kind: str) -> list[Program]:
    return [program for program in found if program.kind == kind]


def _ordered(views: list[Program]) -> list[Program]:
    """Put each view after those that its text names (identifiers are always quoted there)."""
    ordered: list[Program] = []
    waiting = list(views)
    while waiting:
        names = {quote(view.name) for view in waiting}
        ready = [
            view
            for view in waiting
            if not any(name in view.statements[-1] for name in names - {quote(view.name)})
        ]
        ordered += ready or waiting  # a column may have the name of a view: then any order
        waiting = [view for view in waiting if ready and view not in ready]
    return ordered


def _programs(command: Command) -> bytes:
    """Return a dump without tables, in which triggers name no database and can be restored."""
    with programs.running(command) as output:
        text = output.read()
    # Any bytes survive as Latin-1.
    return ENDING.sub(r"\n\1", _unqualified(text.decode("latin-1"))).encode("latin-1")


def _name(match: re.Match[bytes]) -> str:
    return match[1].replace(b"``", b"`").decode()


def _parameters(url: str) -> dict[str, Any]:
    return driver_arguments(url)[1]


@contextmanager
def _errors(url: str) -> Iterator[None]:
    password = str(_parameters(url).get("password") or "")
    with base.driver_errors(pymysql.Error, password, "MySQL"):
        yield


def _connect(url: str, database: str | None = "") -> Connection:
    """Connect to the live database, to another one, or (None) to none."""
    given = _parameters(url)
    if database is None:
        del given["database"]
    elif database:
        given["database"] = database
    given["client_flag"] = given.get("client_flag", 0) | CLIENT.MULTI_STATEMENTS
    given["charset"] = "utf8mb4"
    # As bytes: PyMySQL sends a text in Latin-1, the server expects UTF-8.
    # https://github.com/PyMySQL/PyMySQL/blob/main/pymysql/connections.py
    given["password"] = str(given.get("password") or "").encode()
    return pymysql.connect(**given, autocommit=True, cursorclass=DictCursor)


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
    # Check the server's certificate exactly when the URL asks for it, as the driver does.
    # MariaDB's programs since 11.4 check it unless told otherwise.
    # https://mariadb.com/docs/server/security/encryption/data-in-transit-encryption/securing-connections-for-client-and-server
    verify = bool(tls.get("check_hostname"))
    if "MariaDB" in version:
        options["ssl-verify-server-cert"] = "1" if verify else "0"
    elif verify:
        options["ssl-mode"] = "VERIFY_IDENTITY"
    lines = [f"{key}={_option(str(value))}" for key, value in options.items() if value is not None]
    return Command((tool, *arguments), options="\n".join(["[client]", *lines, ""]), secret=password)


def _option(value: str) -> str:
    """Quote a value of an option file: https://dev.mysql.com/doc/refman/8.4/en/option-files.html"""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _tool(server: str, names: tuple[str, str]) -> tuple[str, str]:
    """Find a program, not older than the server if it is of the same make.

    ``names`` are Oracle's and MariaDB's, and the one of the server's make is preferred.
    """
    mariadb = "MariaDB" in server
    package = "mariadb-client" if mariadb else "default-mysql-client (or MySQL's mysql-client)"
    path = next(filter(None, map(which, names[::-1] if mariadb else names)), None)
    if path is None:
        raise ToolError(f"{names[mariadb]} is not installed: install the Debian package {package}")
    version = programs.version(path)
    if mariadb == ("MariaDB" in version) and _major(version) < _major(server):
        raise ToolError(f"{version} is older than the server ({server}): install a newer {package}")
    return path, version


def _major(version: str) -> tuple[int, int]:
    # MariaDB's programs give a version of their own before that of the distribution.
    match = re.search(r"(\d+)\.(\d+)\.\d+-MariaDB", version) or re.search(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _server_version(conn: Connection) -> str:
    return str(rows(conn, "SELECT version() AS v")[0]["v"])


def _refuse_what_is_hidden(conn: Connection, database: str) -> None:
    """A dump leaves out, without an error, what its user may not see."""
    granted = rows(
        conn,
        "SELECT PRIVILEGE_TYPE AS p FROM information_schema.USER_PRIVILEGES UNION SELECT"
        " PRIVILEGE_TYPE FROM information_schema.SCHEMA_PRIVILEGES WHERE %s LIKE TABLE_SCHEMA",
        database,
    )
    # The privileges of a role are not listed here.
    if rows(conn, "SELECT CURRENT_ROLE() AS r")[0]["r"] in (None, "NONE"):
        missing = {"SELECT", "TRIGGER", "EVENT", "EXECUTE"} - {row["p"] for row in granted}
        if missing:
            raise DatabaseError(
                f"this user may not see all of {database}: GRANT {', '.join(sorted(missing))}"
            )


def _refuse_columns(conn: Connection, database: str, server: str, version: str) -> None:
    """mariadb-dump writes values of some of MySQL's columns in a way that no server takes back."""
    if "MariaDB" not in version or "MariaDB" in server:
        return
    query = (
        "SELECT TABLE_NAME AS name FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s"
        " AND (EXTRA LIKE '%% GENERATED' OR DATA_TYPE = 'vector') LIMIT 1"
    )
    for row in rows(conn, query, database):
        raise ToolError(
            f"the table {row['name']} has a generated column or a vector, which MariaDB's dump"
            " program gets wrong on a MySQL server: install MySQL's own mysqldump (package"
            " mysql-client)"
        )


def _refuse_libraries(conn: Connection, database: str) -> None:
    """Functions name MySQL's JavaScript libraries with their database, so no other can have them."""
    if not rows(conn, "SHOW TABLES FROM information_schema LIKE 'LIBRARIES'"):
        return  # MariaDB, and MySQL before 9.2
    query = (
        "SELECT LIBRARY_NAME AS name FROM information_schema.LIBRARIES WHERE LIBRARY_SCHEMA = %s"
    )
    for row in rows(conn, query, database):
        raise DatabaseError(
            f"the library {row['name']} cannot be restored beside the live database: remove it, or"
            " use mysqldump"
        )


def _history(conn: Connection, database: str, version: str) -> list[str]:
    """Return the option that includes the history of system-versioned tables, if there are any."""
    if "SYSTEM VERSIONED" not in _tables(conn, database).values():
        return []
    if _major(version) < (10, 11):
        raise ToolError(f"{version} loses the history of versioned tables: install 10.11 or newer")
    return ["--dump-history"]


def _tables(conn: Connection, database: str) -> dict[str, str]:
    """Return what can be renamed, with its type: tables, and MariaDB's sequences."""
    query = (
        "SELECT TABLE_NAME AS name, TABLE_TYPE AS type FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = %s AND TABLE_TYPE NOT LIKE '%%VIEW' ORDER BY name"
    )
    return {str(row["name"]): str(row["type"]) for row in rows(conn, query, database)}


def _create(conn: Connection, name: str, like: str, properties: dict[str, Any]) -> None:
    """Create a database with the character set of another one; if that is gone, of the backup."""
    found = rows(
        conn,
        "SELECT DEFAULT_CHARACTER_SET_NAME AS charset, DEFAULT_COLLATION_NAME AS collation"
        " FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s",
        like,
    )
    options = "CHARACTER SET {charset} COLLATE {collation}".format(**[*found, properties][0])
    try:
        run(conn, [f"CREATE DATABASE IF NOT EXISTS {quote(name)} {options}"])
    except pymysql.err.OperationalError as error:
        raise DatabaseError(
            f"{error.args[-1]}: a restore needs the right to create databases, which can be given"
            " to the user of BACKUP_DATABASE_URL, see docs/backups.md"
        ) from None


def _wait_for(database: str, tables: list[str]) -> list[str]:
    """Wait for open transactions before the first change, so that none comes in between."""
    locks = ", ".join(f"{quote(database)}.{quote(table)} WRITE" for table in tables)
    return [f"LOCK TABLES {locks}", "UNLOCK TABLES"] if tables else []


def _rename(moves: list[tuple[str, str, str]]) -> list[str]:
    renames = ", ".join(
        f"{quote(source)}.{quote(table)} TO {quote(target)}.{quote(table)}"
        for source, target, table in moves
    )
    return [f"RENAME TABLE {renames}"] if moves else []


def _sequence_defaults(
    conn: Connection, source: str, target: str, now_in: str | None = None
) -> list[str]:
    """Return the statements by which moved columns take their numbers from moved sequences."""
    found = rows(
        conn,
        "SELECT TABLE_NAME AS t, COLUMN_NAME AS c, COLUMN_DEFAULT AS d"
        " FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND INSTR(COLUMN_DEFAULT, %s)",
        now_in or source,
        f"val({quote(source)}.",
    )
    return [
        f"ALTER TABLE {quote(target)}.{quote(row['t'])} ALTER COLUMN {quote(row['c'])} SET DEFAULT"
        f" ({row['d'].replace(f'val({quote(source)}.', f'val({quote(target)}.')})"
        for row in found
    ]


def _end_connections(conn: Connection, database: str) -> None:
    """End the other sessions in a database: an open transaction would hold its tables."""
    ours = rows(conn, "SELECT connection_id() AS id")[0]["id"]
    for row in rows(conn, "SHOW PROCESSLIST"):
        if row["db"] == database and row["Id"] != ours:
            # Another user's session, or one that has just ended.
            with suppress(pymysql.err.OperationalError, pymysql.err.InternalError):
                run(conn, [f"KILL {int(row['Id'])}"])
