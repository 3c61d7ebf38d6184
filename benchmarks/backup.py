"""Our backup beside the native tools, on one machine, in one run.

From the folder of a generated project with backups, whose environment it uses:

    uv run python ../forge/benchmarks/backup.py postgresql [MEGABYTES]    fills DATABASE_URL
    uv run python ../forge/benchmarks/backup.py sqlite [MEGABYTES]

Writes its table into benchmarks/README.md. Each figure is the median of five with its range, the
ways take turns, and peak memory is that of our process alone.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from tables import ratios, show, write

ROUNDS = 5
CREATE = """
import os, resource, time
from app.backup import BackupConfig, create_backup
start = time.perf_counter()
create_backup(BackupConfig(os.environ["DATABASE_URL"], os.environ["BACKUP_DIR"]))
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
ROW = sa.text("INSERT INTO bench (name, mail, note, price) VALUES (:name, :mail, :note, :price)")


def fill(url: str, megabytes: int) -> None:
    """Make a table of about that size, of text that compresses as real text does."""
    engine = sa.create_engine(url)
    words = Path(__file__).read_text().split()
    key = "INTEGER" if url.startswith("sqlite") else "SERIAL"
    with engine.begin() as conn:
        conn.exec_driver_sql("DROP TABLE IF EXISTS bench")
        conn.exec_driver_sql(
            f"CREATE TABLE bench (id {key} PRIMARY KEY, name VARCHAR(50), mail VARCHAR(80),"
            " note VARCHAR(500), price INTEGER)"
        )
        batch = []
        for n in range(5000):
            note = " ".join(words[(n * 7 + k * k) % len(words)] for k in range(40))[:400]
            mail = f"{os.urandom(6).hex()}@example.com"
            batch.append({"name": f"name {n}", "mail": mail, "note": note, "price": n * 37 % 9999})
        conn.execute(ROW, batch)
        size = sum(len(str(value)) + 1 for row in batch for value in row.values())
        for _ in range(max(1, megabytes * 1_000_000 // size) - 1):
            conn.exec_driver_sql(
                "INSERT INTO bench (name, mail, note, price)"
                " SELECT name, mail, note, price FROM bench LIMIT 5000"
            )
    engine.dispose()


def ours(url: str, folder: Path) -> tuple[float, float]:
    """Return seconds, and the peak memory in MB, of create_backup in a process of its own."""
    env = {**os.environ, "DATABASE_URL": url, "BACKUP_DIR": str(folder)}
    command = [sys.executable, "-c", CREATE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def shell(command: str, **variables: str) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        env = {**os.environ, **variables}
        subprocess.run(["bash", "-o", "pipefail", "-c", command], env=env, check=True)
        return time.perf_counter() - start

    return run


def natives(url: str, folder: Path) -> dict[str, Callable[[], float]]:
    parts = sa.make_url(url)
    out = {"OUT": str(folder / "native"), "DB": str(parts.database)}
    if url.startswith("sqlite"):
        return {
            "cat > /dev/null": shell('cat "$DB" > /dev/null', **out),
            "sqlite3 .backup, then gzip": shell(
                'sqlite3 "$DB" ".backup $OUT" && gzip -f "$OUT" && sync "$OUT.gz"', **out
            ),
        }
    out |= {
        "PGHOST": parts.host or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
    }
    return {
        "pg_dump > /dev/null": shell('pg_dump "$DB" > /dev/null', **out),
        "pg_dump \\| gzip": shell('pg_dump "$DB" | gzip > "$OUT" && sync "$OUT"', **out),
    }


def measure(url: str, folder: Path) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each way, and our peak memory in MB."""
    ways = natives(url, folder)
    times: dict[str, list[float]] = {name: [] for name in ("create", *ways)}
    memory = 0.0
    for _ in range(ROUNDS):
        seconds, peak = ours(url, folder)
        memory = max(memory, peak)
        times["create"].append(seconds)
        for name, run in ways.items():
            times[name].append(run())
    return times, memory


def main(engine: str = "sqlite", megabytes: str = "1000") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = os.environ["DATABASE_URL"] if engine != "sqlite" else f"sqlite:///{folder}/bench.db"
        fill(url, int(megabytes) // 10)
        small = max(ours(url, folder)[1] for _ in range(2))
        fill(url, int(megabytes))
        times, large = measure(url, folder)
    lines = [
        f"| {engine}, {megabytes} MB | seconds | create takes, times as long |",
        "|---|---|---|",
    ]
    for way, seconds in times.items():
        lines.append(
            f"| {way} | {show(seconds, 1)} | {show(ratios(times['create'], seconds), 2)} |"
        )
    lines.append("")
    lines.append(
        f"Peak memory of create: {small:.0f} MB at a tenth of the size, {large:.0f} MB at all."
    )
    table = "\n".join(lines)
    print(table)
    write(f"backup-{engine}", table)


if __name__ == "__main__":
    main(*sys.argv[1:])
