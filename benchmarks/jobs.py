"""Jobs and tasks, each beside what it is compared with, in turns in one run.

    uv run python -m benchmarks.jobs [--folder FOLDER] [SECTION ...]

Writes the tables into benchmarks/README.md. FOLDER keeps the generated projects for the next run.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.tables import chart, ratios, show, write
from tests.harness import (
    TEMPLATE,
    Stack,
    install,
    log_in,
    run,
    wait_until,
)

PROGRAMS = Path(__file__).parent / "programs"
RUNS = 3
COUNT = 1000
SETTINGS = {"ACCESS_TOKEN_MINUTES": "600"}

Rates = Sequence[float]  # Per second, and per second of processor time.


def bake(folder: Path, database: str, template: Path = TEMPLATE) -> Path:
    """Return an installed project, with the tasks of the benchmarks if it is of this version."""
    project = folder / template.name / database / "my-api"
    if not project.exists():
        answers = ("--no-input", "project_slug=my-api", f"database={database}")
        command = (sys.executable, "-m", "cookiecutter", template, "-o", project.parent, *answers)
        run(*command, cwd=folder, env=os.environ | {"HOME": str(folder)})
        install(project)
    if template == TEMPLATE:
        shutil.copy(PROGRAMS / "inside.py", project / "app/tasks/bench.py")
    return project


@contextmanager
def started(project: Path) -> Iterator[Stack]:
    """Yield a stack whose users have logged in: ``stack.tokens``."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(project, Path(folder), **SETTINGS) as stack,
    ):
        api = stack.start_api()
        tokens = [log_in(api).headers["Authorization"].split()[1] for _ in range(8)]
        stack.kill("api")
        stack.tokens = ",".join(tokens)  # type: ignore[attr-defined]
        yield stack


def redis_at(port: int, first: int = 0) -> dict[str, str]:
    """Return the settings with which processes use a Redis at that port, from that database on."""
    names = ("REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
    return {name: f"redis://127.0.0.1:{port}/{first + n}" for n, name in enumerate(names)}


def alternate(sides: dict[Any, Callable[[], Any]], runs: int = RUNS) -> dict[Any, list[Any]]:
    """Return what each side measures, several times in turn."""
    results: dict[Any, list[Any]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, measure in sides.items():
            results[name].append(measure())
    return results


def add_row(section: str, header: str, rows: list[str], *cells: object) -> None:
    """Add a row to the table of a section and write it into the README."""
    rows.append(f"| {' | '.join(map(str, cells))} |")
    print(rows[-1], flush=True)
    write(f"jobs-{section}", "\n".join([header, "|---" * (header.count("|") - 1) + "|", *rows]))


def inside(stack: Stack, call: str, **environment: str) -> Any:
    """Return what a function of ``inside.py`` returns in the project."""
    code = f"import json; from app.tasks import bench; print(json.dumps(bench.{call}))"
    environment = {"LOG_LEVEL": "WARNING"} | environment
    output = stack.run("python", "-c", code, timeout=1800, **environment)
    return json.loads(output.splitlines()[-1])


# Workers


def start_bare_worker(stack: Stack, processes: int, **environment: str) -> None:
    """Start a worker of the bare application."""
    celery = (stack.project / ".venv/bin/celery", "--workdir", PROGRAMS, "-A", "bare.celery_app")
    options = ("-c", str(processes), "--loglevel=info", "-n", "bare@%h")
    stack.start("bare", *celery, "worker", *options, **environment)
    stack.wait_for_log("bare", " ready.")


def waiting(broker: Redis) -> int:
    """Return the number of messages in the queue ``celery``."""
    return sum(map(broker.llen, broker.scan_iter("*celery", _type="list")))


def cpu(stack: Stack, name: str) -> float:
    """Return the milliseconds of processor time that a process and its children have used."""
    times = [process.cpu_times() for process in stack.family(name)]
    ended = times[0].children_user + times[0].children_system
    return (ended + sum(time.user + time.system for time in times)) * 1000


def drain(stack: Stack, worker: str, broker: Redis, fill: Callable[[], Any]) -> Rates:
    """Return how many tasks a worker takes from a full queue, per second and per CPU second."""
    stack.send_signal(worker, signal.SIGSTOP, family=True)
    fill()
    wait_until(lambda: waiting(broker) >= COUNT * 0.99)
    stack.send_signal(worker, signal.SIGCONT, family=True)
    wait_until(lambda: waiting(broker) < COUNT * 0.9, every=0.005)  # It is awake and warm.
    first, start, used = waiting(broker), time.perf_counter(), cpu(stack, worker)
    wait_until(lambda: not waiting(broker), seconds=300, every=0.005)
    seconds = time.perf_counter() - start
    return first / seconds, 1000 * first / (cpu(stack, worker) - used)


def columns(ours: list[Rates], theirs: list[Rates]) -> list[str]:
    """Return the cells of a table: both rates with their ratios, for each kind of rate."""
    cells = []
    for one, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        cells += [show(one), show(other), show(ratios(one, other), 2)]
    return cells


def worker(folder: Path) -> None:
    """No-op tasks per second, beside a bare Celery application with Celery's defaults."""
    header = (
        "| processes | ours, tasks/s | bare, tasks/s | ratio (goals 0.8, 0.9) "
        "| ours, tasks per CPU second | bare | ratio |"
    )
    rows: list[str] = []
    with started(bake(folder, "postgresql")) as stack:
        bare = redis_at(stack.redis_port, 4)
        fill_bare = f"from bare import noop\nfor n in range({COUNT}): noop.delay(n)"
        ours = partial(inside, stack, f"queue('delay', {COUNT})")
        theirs = partial(stack.python, fill_bare, PYTHONPATH=str(PROGRAMS), **bare)
        sides = {
            "ours": partial(drain, stack, "worker", stack.broker, ours),
            "bare": partial(drain, stack, "bare", Redis(port=stack.redis_port, db=5), theirs),
        }
        for processes in (1, 4):
            stack.start_worker(CELERY_WORKER_CONCURRENCY=str(processes))
            start_bare_worker(stack, processes, **bare)
            alternate(sides, 1)
            rates = alternate(sides)
            stack.kill("worker")
            stack.kill("bare")
            add_row("worker", header, rows, processes, *columns(*rates.values()))


def queued_and_run(stack: Stack, how: str, **environment: str) -> Rates:
    """Return how many tasks are queued and run, per second and per CPU second of the worker."""
    used = cpu(stack, "worker")
    rate = inside(stack, f"run('{how}', {COUNT})", **environment)
    return rate, 1000 * COUNT / (cpu(stack, "worker") - used)


def jobs(folder: Path) -> None:
    """Jobs per second from ``enqueue`` to SUCCESS, beside ``.delay()`` in the same project."""
    header = (
        "| database | measured | `enqueue`, jobs/s | `.delay()`, tasks/s | ratio (goal 0.5) "
        "| `enqueue`, jobs per CPU second of the worker | `.delay()` | ratio |"
    )

    def only_run(stack: Stack, how: str) -> Rates:
        fill = partial(inside, stack, f"queue('{how}', {COUNT})")
        return drain(stack, "worker", stack.broker, fill)

    rows: list[str] = []
    bars: dict[str, list[float]] = {}
    for database in ("postgresql", "sqlite"):
        with started(bake(folder, database)) as stack:
            stack.start_worker()
            for measure in (queued_and_run, only_run):
                sides = {how: partial(measure, stack, how) for how in ("enqueue", "delay")}
                alternate(sides, 1)
                results = alternate(sides)
                name = measure.__name__.replace("_", " ")
                add_row("jobs", header, rows, database, name, *columns(*results.values()))
                for how, runs in results.items():
                    bars[f"{database}, {name}, {how}"] = [rate for rate, *_ in runs]
    write("jobs-chart", chart("Jobs (enqueue) and tasks (delay) per second", bars))


def waiting_jobs(folder: Path) -> None:
    """What jobs cost while many of them wait."""
    header = (
        "| jobs waiting | `dispatch`: publish all, ms per job | `dispatch`: nothing lost, ms "
        "| `enqueue`, ms | jobs run, ms each |"
    )

    def measure(stack: Stack, count: int) -> list[float]:
        stack.broker.flushdb()
        inside(stack, "reset()")
        costs: list[float] = inside(stack, f"measure_waiting({count})")
        stack.start_worker()
        wait_until(lambda: waiting(stack.broker) < count + 200, every=0.01)
        start, first = time.perf_counter(), waiting(stack.broker)
        wait_until(lambda: waiting(stack.broker) < first - 700, every=0.01)
        run = (time.perf_counter() - start) * 1000 / (first - waiting(stack.broker))
        stack.kill("worker")
        return [*costs, run]

    rows: list[str] = []
    with started(bake(folder, "postgresql")) as stack:
        sizes = (1_000, 10_000, 100_000)
        results = alternate({size: partial(measure, stack, size) for size in sizes})
    for size, costs in results.items():
        add_row(
            "waiting", header, rows, size, *(show(cost, 2) for cost in zip(*costs, strict=True))
        )


def main() -> None:
    """Run the sections that are named, or all."""
    sections = {f.__name__: f for f in (worker, jobs, waiting_jobs)}
    parser = argparse.ArgumentParser()
    parser.add_argument("sections", nargs="*", choices=sections, default=list(sections))
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        for name in arguments.sections:
            sections[name](folder)


if __name__ == "__main__":
    main()
