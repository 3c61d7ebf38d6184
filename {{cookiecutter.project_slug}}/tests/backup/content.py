"""A small database of everything that is known to get lost in backups."""

import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Unicode(200), nullable=False),
    sa.Column("name_length", sa.Integer, sa.Computed("length(name)", persisted=True)),
    sa.Column("order_id", sa.ForeignKey("order.select", use_alter=True, name="fk_users_order")),
{% if cookiecutter.database == "sqlite" %}
    sqlite_autoincrement=True,
{% endif %}
)
orders = sa.Table(
    "order",
    metadata,
    sa.Column("select", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id", name="fk_order_users")),
    sa.Column("price", sa.Numeric(12, 4)),
    sa.Column("made", sa.DateTime),
    sa.Column("paid", sa.Boolean),
    sa.Column("details", sa.JSON),
)
audit = sa.Table("audit", metadata, sa.Column("user_name", sa.Unicode(200)))
odd = sa.Table("odd \"na'me` (x),(", metadata, sa.Column("a `b\" 'c", sa.Unicode(50)))
empty = sa.Table("empty", metadata, sa.Column("id", sa.Integer, primary_key=True))
blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary(65000)),
)
version = sa.Table("alembic_version", metadata, sa.Column("version_num", sa.String(32)))

AWKWARD = [
    "O'Brien",
    "'; DROP TABLE users; --",
    "a),(b",
    "),\n('",
    "back\\slash\\",
    "\\'",
    "\\N",
    "\\.",
    "tab\tnew\nline\r\nend",
    '"double" `back` $$dollar$$ %percent%',
    "Ünïcödé ☃ 😀 \u202e",
    "INSERT INTO `users` VALUES (1);\n",
    "DELIMITER ;;\n",
    " ",
]
BLOBS = [b"", b"\0", bytes(range(256)), b"'\\\0\n\r\x1a),(" * 100]


def fill(engine: sa.Engine, programs: list[str], megabytes: int = 4) -> None:
    """Make the tables, then the programs (view, trigger), then put the content in."""
    metadata.create_all(engine)
    noise = [os.urandom(60_000) for _ in range(megabytes * 16)]
    with engine.begin() as conn:
        for statement in programs:
            conn.exec_driver_sql(statement)
        names = [{"name": name} for name in AWKWARD]
        conn.execute(users.insert(), names)
        conn.execute(
            orders.insert(),
            [
                {
                    "user_id": 1,
                    "price": Decimal("-1234567.8901"),
                    "made": datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC).replace(tzinfo=None),
                    "paid": True,
                    "details": {"text": 'it\'s "quoted" \\ ü'},
                },
                {"user_id": None, "price": None, "made": None, "paid": None, "details": None},
            ],
        )
        conn.execute(users.update().values(order_id=1).where(users.c.id == 1))
        # The number of a row that is gone must not be given out again.
        conn.execute(users.insert(), [{"name": "gone"}])
        conn.execute(users.delete().where(users.c.name == "gone"))
        conn.execute(odd.insert(), [{odd.c[0].name: "x"}])
        conn.execute(blobs.insert(), [{"data": data} for data in [*BLOBS, *noise]])
        conn.execute(version.insert(), [{"version_num": "0123abc"}])


def read(engine: sa.Engine) -> dict[str, list[Any]]:
    """Return all rows of all tables and of the view, in an order that does not matter."""
    with engine.connect() as conn:
        found = {
            table.name: sorted(map(repr, conn.execute(table.select())))
            for table in metadata.sorted_tables
        }
        found["view"] = sorted(map(repr, conn.exec_driver_sql("SELECT * FROM user_names")))
    return found


def works_on(engine: sa.Engine) -> bool:
    """Say whether numbers go on after the last one ever given, and the trigger fires."""
    with engine.begin() as conn:
        before = conn.execute(sa.select(sa.func.count()).select_from(audit)).scalar_one()
        made = conn.execute(users.insert(), {"name": "new"}).inserted_primary_key
        after = conn.execute(sa.select(sa.func.count()).select_from(audit)).scalar_one()
    return made is not None and made[0] == len(AWKWARD) + 2 and after == before + 1
