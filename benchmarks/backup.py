"""Our backups beside the native tools, on one machine, in one run.

From the folder of a generated project with backups, whose environment it uses:

    uv run python ../forge/benchmarks/backup.py postgresql [MEGABYTES]    fills DATABASE_URL
    uv run python ../forge/benchmarks/backup.py sqlite [MEGABYTES]

With BACKUP_COPY_URL (and AWS_ENDPOINT and the like) the upload of a copy is measured as well.
Writes its table into benchmarks/README.md. Each figure is the median of three with its range, the
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
from tables import chart, ratios, show, write

ROUNDS = 3
OURS = """
import resource, sys, time
from app.backup import operations
calls = {
    "create": operations.create_backup,
    "verify": operations.verify_backup,
    "restore": lambda: operations.restore_backup(None, lambda manifest: True),
}
start = time.perf_counter()
calls[sys.argv[1]]()
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
operations.drop_old(lambda name: True)
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


def ours(url: str, folder: Path, call: str, copy_url: str = "") -> tuple[float, float]:
    """Return the seconds, and the peak memory in MB, of a function in a process of its own."""
    variables = {"DATABASE_URL": url, "BACKUP_DIR": str(folder), "BACKUP_COPY_URL": copy_url}
    env = {**os.environ, **variables}
    command = [sys.executable, "-c", OURS, call]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def shell(command: str, before: str = "", after: str = "", **variables: str) -> Callable[[], float]:
    """Return a function that runs a command between two others and returns its seconds."""
    env = {**os.environ, **variables}

    def bash(text: str) -> None:
        subprocess.run(["bash", "-eo", "pipefail", "-c", text], env=env, check=True)

    def run() -> float:
        bash(before)
        start = time.perf_counter()
        bash(command)
        seconds = time.perf_counter() - start
        bash(after)
        return seconds

    return run


def natives(url: str, folder: Path) -> dict[str, dict[str, Callable[[], float]]]:
    """Return the native ways by what they are compared with."""
    parts = sa.make_url(url)
    out = {"OUT": str(folder / "native"), "DB": str(parts.database)}
    if url.startswith("sqlite"):
        return {
            "create": {
                "cat > /dev/null": shell('cat "$DB" > /dev/null', **out),
                "sqlite3 .backup, then gzip": shell(
                    'sqlite3 "$DB" ".backup $OUT" && gzip -f "$OUT" && sync "$OUT.gz"', **out
                ),
            },
            "restore": {
                "gunzip": shell('gunzip -c "$OUT.gz" > "$OUT" && sync "$OUT"', **out),
            },
        }
    out |= {
        "PGHOST": parts.host or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
    }
    new = {"before": 'createdb "${DB}_native"', "after": 'dropdb "${DB}_native"', **out}
    return {
        "create": {
            "pg_dump > /dev/null": shell('pg_dump "$DB" > /dev/null', **out),
            "pg_dump \\| gzip": shell('pg_dump "$DB" | gzip > "$OUT.gz" && sync "$OUT.gz"', **out),
            "pg_dump -Fc -Z0 \\| zstd -1": shell(
                'pg_dump -Fc -Z0 "$DB" | zstd -q1 > "$OUT.zst" && sync "$OUT.zst"', **out
            ),
            "pg_dump -Fc -Z1": shell('pg_dump -Fc -Z1 "$DB" > "$OUT.fc" && sync "$OUT.fc"', **out),
        },
        "restore": {
            "gunzip \\| psql -1": shell(
                'gunzip -c "$OUT.gz" | psql -qX1 -v ON_ERROR_STOP=1 "${DB}_native" > /dev/null',
                **new,
            ),
            "pg_restore -j2": shell('pg_restore -j2 -d "${DB}_native" "$OUT.fc"', **new),
        },
    }


def measure(
    url: str, folder: Path
) -> tuple[dict[str, dict[str, list[float]]], dict[str, float], dict[str, float]]:
    """Return the seconds of each way, our peak memory in MB, and the sizes of files in MB."""
    ways = natives(url, folder)
    ways["verify"] = {}
    times = {
        step: {name: [] for name in (step, *ways[step])} for step in ("create", "verify", "restore")
    }
    if copy_url := os.environ.get("BACKUP_COPY_URL"):
        times["create"]["create, with a copy"] = []
    memory = dict.fromkeys(times, 0.0)
    for _ in range(ROUNDS):
        for step in ("create", "verify", "restore"):
            seconds, peak = ours(url, folder, step)
            memory[step] = max(memory[step], peak)
            times[step][step].append(seconds)
            for name, run in ways[step].items():
                times[step][name].append(run())
        if copy_url:
            for old in folder.glob("*_backup_*"):  # so that one file is copied
                old.unlink()
            seconds, _peak = ours(url, folder, "create", copy_url)
            times["create"]["create, with a copy"].append(seconds)
    files = {"ours": next(folder.glob("*_backup_*.gz"))}
    files |= {f"native{end}": folder / f"native{end}" for end in (".gz", ".zst", ".fc")}
    sizes = {name: file.stat().st_size / 1e6 for name, file in files.items() if file.exists()}
    return times, memory, sizes


def main(engine: str = "sqlite", megabytes: str = "1000") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = os.environ["DATABASE_URL"] if engine != "sqlite" else f"sqlite:///{folder}/bench.db"
        fill(url, int(megabytes) // 10)
        small = max(ours(url, folder, "create")[1] for _ in range(2))
        fill(url, int(megabytes))
        times, memory, sizes = measure(url, folder)
    lines = [f"| {engine}, {megabytes} MB | seconds | ours takes, times as long |", "|---|---|---|"]
    for step, ways in times.items():
        for way, seconds in ways.items():
            ours_takes = show(ratios(ways[step], seconds), 2)
            lines.append(f"| {way} | {show(seconds, 1)} | {ours_takes} |")
    lines.append("")
    peaks = ", ".join(f"{step} {peak:.0f} MB" for step, peak in memory.items())
    lines.append(f"Peak memory: {peaks}; create at a tenth of the size {small:.0f} MB.")
    lines.append(
        "Sizes: " + ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items()) + "."
    )
    values = {way: seconds for ways in times.values() for way, seconds in ways.items()}
    lines += ["", chart(f"Seconds for {megabytes} MB on {engine}", values)]
    table = "\n".join(lines)
    print(table)
    write(f"backup-{engine}", table)


if __name__ == "__main__":
    main(*sys.argv[1:])
