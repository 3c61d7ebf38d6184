"""Load while a worker, the API, Redis or beat is killed every few seconds. Ends in one line.

    uv run python -m benchmarks.soak [MINUTES] [DATABASE]

Ten minutes on PostgreSQL by default. Exit code 1 when a job was lost. Writes the line into
benchmarks/README.md.
"""

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread

from benchmarks.tables import write
from tests.run.jobs.faults import Faults, bake_faults, clients

EVERY = 8
SETTINGS = {"ACCESS_TOKEN_MINUTES": "600"}


@contextmanager
def naps(stack: Faults) -> Iterator[dict[str, str]]:
    """Queue quick and slow jobs all the time. The dictionary gets their ids and keys."""
    accepted: dict[str, str] = {}
    stop = Event()

    def queue() -> None:
        for number in count():
            if stop.wait(0.5):
                return
            seconds = random.choice([0, 0.01, 0.1, 0.5])
            keys = [f"n{number}-{n}" for n in range(5)]
            ids = stack.ask(f"naps({keys}, {seconds}, {random.choice([0, 0, 3])})")
            accepted.update(zip(ids, keys, strict=True))

    thread = Thread(target=queue)
    thread.start()
    try:
        yield accepted
    finally:
        stop.set()
        thread.join()


def kill_often(stack: Faults, port: int, minutes: float) -> None:
    """Kill something every few seconds and start it again."""
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        time.sleep(EVERY)
        name = random.choice(["one", "two", "api", "redis", "beat"])
        print(f"kill -9 {name}", flush=True)
        if name in ("one", "two"):
            stack.kill_group(name)  # The supervisor starts it again.
            continue
        stack.kill(name)
        time.sleep(random.uniform(0, 5))
        if name == "api":
            stack.start_api(port=port)
        elif name == "redis":
            stack.start_redis()
        else:
            stack.start_beat()


def main(length: str = "10", database: str = "postgresql") -> int:
    """Run, and return the exit code."""
    minutes = float(length)
    with tempfile.TemporaryDirectory(prefix="forge-") as folder:
        project = bake_faults(Path(folder), database)
        with Faults(project, Path(folder) / "soak", **SETTINGS) as stack:
            api = stack.start_api()
            stack.start_beat()
            with stack.supervised("one", "two"):
                with clients(api, 4) as answers, naps(stack) as keys:
                    kill_often(stack, api.base_url.port or 0, minutes)
                accepted = [job for code, _, job in answers if code == 202] + list(keys)
                for _ in range(300):
                    states = stack.ask("count()")
                    if set(states) == {"SUCCESS"}:
                        break
                    time.sleep(1)
            rows = stack.ask("rows()")
        begun, done = stack.runs("start"), stack.runs("end")
    succeeded = {row["id"] for row in rows if row["status"] == "SUCCESS"}
    lost = [
        job for job in accepted if job not in succeeded or (job in keys and not done[keys[job]])
    ]
    line = (
        f"{minutes:g} minutes on {database}: accepted {len(accepted)}, "
        f"done {len(accepted) - len(lost)}, "
        f"interrupted and run again {sum(begun[key] > done[key] for key in begun)}, "
        f"run twice to the end {sum(done[key] > 1 for key in keys.values())}, lost {len(lost)}"
    )
    print(states, lost[:20])
    print(line)
    write("soak", line)
    return 1 if lost or set(states) != {"SUCCESS"} else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
