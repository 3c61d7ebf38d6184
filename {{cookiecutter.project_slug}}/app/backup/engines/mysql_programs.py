"""What MySQL cannot move from one database to another: triggers, views and routines."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pymysql
from pymysql.cursors import DictCursor

Connection: TypeAlias = "pymysql.connections.Connection[DictCursor]"

VIEWS = "SELECT TABLE_NAME AS name FROM information_schema.VIEWS WHERE TABLE_SCHEMA = %s"
TRIGGERS = (
    "SELECT TRIGGER_NAME AS name FROM information_schema.TRIGGERS"
    " WHERE TRIGGER_SCHEMA = %s ORDER BY EVENT_OBJECT_TABLE, ACTION_ORDER"
)
ROUTINES = (
    "SELECT ROUTINE_NAME AS name FROM information_schema.ROUTINES"
    " WHERE ROUTINE_SCHEMA = %s AND ROUTINE_TYPE = '{}'"
)
# In the order in which they can be made.
QUERIES = {
    "FUNCTION": ROUTINES.format("FUNCTION"),
    "VIEW": VIEWS,
    "PROCEDURE": ROUTINES.format("PROCEDURE"),
    "TRIGGER": TRIGGERS,
}


@dataclass(frozen=True)
class Program:
    """One trigger, view or routine, and the statements that make it again."""

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
        cursor.execute("\n;\n".join(statements))
        while cursor.nextset():
            pass


def read(conn: Connection, database: str) -> list[Program]:
    """Read all programs of a database, in the order in which they can be made."""
    # With the database in use, a view's text names its tables without the database.
    conn.select_db(database)
    found = [
        _program(conn, kind, str(row["name"]))
        for kind, query in QUERIES.items()
        for row in rows(conn, query, database)
    ]
    views = _ordered([program for program in found if program.kind == "VIEW"])
    first = [program for program in found if program.kind == "FUNCTION"]
    rest = [program for program in found if program.kind in ("PROCEDURE", "TRIGGER")]
    return [*first, *views, *rest]


def creating(database: str, programs: Iterable[Program]) -> list[str]:
    """Return the statements that make the programs in that database."""
    made = [statement for program in programs for statement in program.statements]
    return [f"USE {quote(database)}", *made] if made else []


def dropping(database: str, programs: Iterable[Program]) -> list[str]:
    """Return the statements that remove the programs from that database."""
    return [
        f"DROP {program.kind} IF EXISTS {quote(database)}.{quote(program.name)}"
        for program in programs
    ]


def _program(conn: Connection, kind: str, name: str) -> Program:
    row = rows(conn, f"SHOW CREATE {kind} {quote(name)}")[0]
    body = row.get("SQL Original Statement") or row.get(f"Create {kind.title()}")
    if not body:
        raise pymysql.OperationalError(1370, f"no right to read the {kind.lower()} {name}")
    setting = [f"SET collation_connection = {row['collation_connection']}"]
    if "sql_mode" in row:
        setting.append(f"SET sql_mode = '{row['sql_mode']}'")
    return Program(kind, name, (*setting, str(body)))


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
