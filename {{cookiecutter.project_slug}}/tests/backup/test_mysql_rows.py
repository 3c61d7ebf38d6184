"""The row counter against dumps whose content is known, cut at every place."""

import random

import pytest

from app.backup.engines.mysql_rows import RowCounter

PIECES = [
    "a",
    "),(",
    "\\\\",
    "\\'",
    '"',
    ";\\n",
    "INSERT INTO `t` VALUES (",
    "(",
    ")",
    ",",
    "ü",
    "`",
]


def dump(rng: random.Random, newline: str) -> tuple[bytes, dict[str, int]]:
    """Make a dump as mysqldump ("") or mariadb-dump (newline) writes it."""
    text, expected = ["-- MySQL dump\n"], {}
    for table in ("users", "we``ird (x),('", "empty"):
        text.append(f"CREATE TABLE `{table}` (\n  `id` int COMMENT 'a;\\nb'\n);\n")
        name = table.replace("``", "`")
        expected[name] = 0
        for _ in range(0 if table == "empty" else rng.randint(1, 3)):
            rows = [
                f"({n},'{''.join(rng.choices(PIECES, k=rng.randint(0, 6)))}',0xFF,NULL,-1.5)"
                for n in range(rng.randint(1, 5))
            ]
            columns = rng.choice(["", "(`id`, `a),(b`) "])
            joined = f",{newline}".join(rows)
            text.append(f"INSERT INTO `{table}` {columns}VALUES {newline}{joined};\n")
            expected[name] += len(rows)
    text.append(
        "DELIMITER ;;\nCREATE TRIGGER x BEGIN\nINSERT INTO `users` VALUES (1),(2);\nEND ;;\n"
        "DELIMITER ;\nCREATE TABLE `alembic_version` (\n);\n"
        f"INSERT INTO `alembic_version` VALUES {newline}('0123abc');\n-- Dump completed\n"
    )
    return "".join(text).encode(), expected | {"alembic_version": 1}


@pytest.mark.parametrize("newline", ["", "\n"])
@pytest.mark.parametrize("seed", range(20))
def test_counts_are_right_wherever_the_dump_is_cut(seed: int, newline: str) -> None:
    rng = random.Random(seed)
    data, expected = dump(rng, newline)
    for size in [*range(1, 40), 1000, len(data)]:
        counter = RowCounter()
        for start in range(0, len(data), size):
            counter.feed(data[start : start + size])
        assert counter.tables == expected
        assert counter.revision == "0123abc"
