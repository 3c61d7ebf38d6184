"""Counting the rows of a dump while it passes, at the speed of bytes.split."""

import re

# A statement starts a line; a newline inside a value is always written as \\n.
START = re.compile(
    rb"^(?:INSERT INTO (?P<insert>`(?:[^`]|``)+`) (?:\((?:`(?:[^`]|``)+`(?:, ?)?)+\) )?VALUES"
    rb"|CREATE TABLE (?:IF NOT EXISTS )?(?P<create>`(?:[^`]|``)+`) \("
    rb"|(?P<delimiter>DELIMITER ;;\n))",
    re.MULTILINE,
)
# More than the longest INSERT or CREATE line up to its VALUES: 4096 column names of 64
# characters would be more, and so few rows that nobody has them.
HEAD = 64 * 1024
REVISION = re.compile(rb"\('([^'\\]*)'\)")


class RowCounter:
    """Counts the rows of each table in the output of mysqldump or mariadb-dump.

    `tables` holds the count for each table in the dump, `revision` Alembic's revision. Bodies
    of triggers and routines, which may contain any statement, are skipped: they stand between
    DELIMITER lines.
    """

    def __init__(self) -> None:
        self.tables: dict[str, int] = {}
        self.revision: str | None = None
        self._rest = b""
        self._state = self._between
        self._table = ""
        self._in_string = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the dump, cut anywhere."""
        data = self._rest + chunk
        self._rest = b""
        while data:
            data = self._state(data)

    def _between(self, data: bytes) -> bytes:
        """Look for the next statement of interest."""
        match = START.search(data)
        if match is None:
            # A line that is not complete may become one; what is longer than HEAD may not.
            line = data.rfind(b"\n") + 1
            self._rest = data[line:] if len(data) - line < HEAD else b" " + data[-HEAD:]
            return b""
        if match["delimiter"]:
            self._state = self._program
        elif match["create"]:
            self.tables.setdefault(_name(match["create"]), 0)
        else:
            self._table = _name(match["insert"])
            self._in_string = False
            self.tables[self._table] = self.tables.get(self._table, 0) + 1
            self._state = self._values
        return data[match.end() :]

    def _program(self, data: bytes) -> bytes:
        """Skip the body of a trigger or routine."""
        end = data.find(b"\nDELIMITER ;\n")
        if end < 0:
            self._rest = data[-16:]
            return b""
        self._state = self._between
        return data[end + 1 :]

    def _values(self, data: bytes) -> bytes:
        """Count the ends of rows, which are outside of strings, up to the statement's end."""
        end = data.find(b";\n")
        if self._table == "alembic_version":  # small enough to be read as a whole
            if end < 0:
                self._rest = data
                return b""
            found = REVISION.search(data, 0, end)
            self.revision = found[1].decode() if found else None
        if end >= 0:
            self._count(data[:end])
            self._state = self._between
            return data[end + 2 :]
        # Keep back what may be the first half of an escape, of "),(" or of ";\n".
        whole = len(data.rstrip(b"\\),\n;"))
        self._count(data[:whole])
        self._rest = data[whole:]
        return b""

    def _count(self, data: bytes) -> None:
        # Without escaped characters every quote begins or ends a string.
        plain = data.replace(b"\\\\", b"").replace(b"\\'", b"").replace(b"\n", b"")
        parts = plain.split(b"'")
        outside = parts[1::2] if self._in_string else parts[::2]
        self.tables[self._table] += b"'".join(outside).count(b"),(")
        if len(parts) % 2 == 0:
            self._in_string = not self._in_string


def _name(quoted: bytes) -> str:
    return quoted[1:-1].replace(b"``", b"`").decode()
