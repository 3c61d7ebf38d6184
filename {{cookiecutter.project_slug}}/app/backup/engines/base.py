"""What the three engines have in common: each is a module with the same functions.

SUFFIX                      ending of a backup's name
END                         what the last bytes of a complete dump contain
database_name(url)          the database's own name
snapshot(url)               context manager giving a Snapshot: one consistent state
side(url, name)             context manager giving a function that takes the dump's bytes
                            into a fresh database of that name
facts(url, name)            what that database holds now
swap(url, side, old)        put it in the place of the live one, keep that one as `old`
drop(url, name)             remove a side or an old database
others(url, kind)           names of side ("restore") or old ("old") databases of this one
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import make_url

from app.backup.errors import DatabaseError
from app.backup.tools import Command, redact


@dataclass(frozen=True)
class Facts:
    """What a database holds: rows per table, and the Alembic revision if there is one."""

    tables: dict[str, int]
    revision: str | None


@dataclass(frozen=True)
class Snapshot:
    """One consistent state of a database, to be dumped.

    `feed`, if set, must be given every chunk of the dump; `facts` may be called when the dump
    has ended, and describes exactly what was dumped.
    """

    command: Command
    versions: Mapping[str, str]
    facts: Callable[[], Facts]
    feed: Callable[[bytes], None] | None = None
    size: int | None = None


def driver_arguments(url: str) -> tuple[list[Any], dict[str, Any]]:
    """Return what SQLAlchemy would give to the driver: sockets and ?options included."""
    parsed = make_url(url)
    args, kwargs = parsed.get_dialect()().create_connect_args(parsed)
    return list(args), dict(kwargs)


@contextmanager
def driver_errors(error_type: type[Exception], secret: str, doing: str) -> Iterator[None]:
    """Turn a driver's errors into one line without the password."""
    try:
        yield
    except error_type as error:
        words = " ".join(redact(str(error), secret).split())
        raise DatabaseError(f"{doing}: {words}") from None


@contextmanager
def counting(
    count: Callable[[], Facts], cancel: Callable[[], object]
) -> Iterator[Callable[[], Facts]]:
    """Count rows in a thread while the dump runs; give a function that waits for the result."""
    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(count)
        try:
            yield counted.result
        except BaseException:
            with suppress(Exception):  # the server may be gone: what went wrong first counts
                cancel()
            raise


def side_name(database: str, kind: str, stamp: str, limit: int) -> str:
    """Return the name of a side or old database, within the engine's limit in bytes."""
    ending = f"_{kind}_{stamp}"
    head = database.encode()[: limit - len(ending)].decode(errors="ignore")
    return head + ending


def of_kind(database: str, kind: str, names: Iterable[str], limit: int) -> list[str]:
    """Return those of `names` that `side_name` gives for this database, oldest first."""
    found = (re.search(r"\d{8}_\d{6}$", name) for name in names)
    return sorted(
        match.string
        for match in found
        if match and match.string == side_name(database, kind, match[0], limit)
    )
