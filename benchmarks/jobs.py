"""Jobs, tasks and the API, each beside what it is compared with, in turns in one run.

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

import httpx
from redis import Redis

from benchmarks.tables import chart, ratios, show, write
from tests.harness import (
    TEMPLATE,
    Stack,
    free_port,
    install,
    listens,
    log_in,
    run,
    wait_for_task,
    wait_until,
)

HERE = Path(__file__).parent
BEFORE = "cfd1f4a"  # The version of this repository that the section ``http`` compares with.
RUNS = 3
SECONDS = 2
COUNT = 1000
NOTIFY = ("POST", "/notify?user_id=1&message=hello")
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
        shutil.copy(HERE / "inside.py", project / "app/tasks/bench.py")
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
    celery = (stack.project / ".venv/bin/celery", "--workdir", HERE, "-A", "bare.celery_app")
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
        "| processes | ours, tasks/s | bare, tasks/s | ratio (goal 0.95) "
        "| ours, tasks per CPU second | bare | ratio |"
    )
    rows: list[str] = []
    with started(bake(folder, "postgresql")) as stack:
        bare = redis_at(stack.redis_port, 4)
        fill_bare = f"from bare import noop\nfor n in range({COUNT}): noop.delay(n)"
        ours = partial(inside, stack, f"queue('delay', {COUNT})")
        theirs = partial(stack.python, fill_bare, PYTHONPATH=str(HERE), **bare)
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


# The API


def serve(stack: Stack, *target: str, name: str = "api", **environment: str) -> int:
    """Start an API and return its port once it answers."""
    port = free_port()
    options = ("--port", str(port), "--app-dir", str(HERE if target[0] == "bare:app" else "."))
    stack.start(name, stack.project / ".venv/bin/uvicorn", *target, *options, **environment)
    wait_until(lambda: listens(port), message=f"{target} does not answer")
    return port


def load(stack: Stack, port: int, clients: int, *request: str, seconds: float = SECONDS) -> Any:
    """Return what the load generator has measured."""
    arguments = map(str, (port, clients, seconds, *request, stack.tokens))  # type: ignore[attr-defined]
    used = cpu(stack, "api")
    output = run(sys.executable, HERE / "load.py", *arguments, cwd=HERE, env={**os.environ})
    result = json.loads(output)
    return result | {"cpu": (cpu(stack, "api") - used) / sum(result["codes"].values())}


def codes(results: list[Any]) -> str:
    """Return the status codes of answers, without those of success."""
    counts: dict[str, int] = {}
    for result in results:
        for code, count in result["codes"].items():
            counts[code] = counts.get(code, 0) + count
    return ", ".join(f"{n} × {code}" for code, n in counts.items() if code[0] != "2") or "none"


def notify(folder: Path) -> None:
    """``POST /notify`` while Redis is quick, slow, refuses and hangs, beside a naive API."""
    header = (
        "| clients | API | Redis | requests/s | to ours at 0 ms | to naive at 20 ms "
        "| CPU, ms per request | p99, ms | `/health/live` p50, ms | p99, ms | other than 2xx |"
    )
    with started(bake(folder, "postgresql")) as stack:
        slow, closed = free_port(), free_port()
        proxy = map(str, (HERE / "proxy.py", slow, stack.redis_port, 20))
        stack.start("proxy", sys.executable, *proxy)
        redis = {"0 ms": stack.redis_port, "20 ms": slow, "refused": closed}
        redis["frozen"] = stack.redis_port

        def measure(api: str, state: str, clients: int) -> Any:
            stack.redis.flushall()
            if api == "ours":
                inside(stack, "reset()")
            target = "app.main:app" if api == "ours" else "bare:app"
            port = serve(stack, target, **redis_at(redis[state]))
            load(stack, port, 4, *NOTIFY, seconds=1)
            if state == "frozen":
                stack.send_signal("redis", signal.SIGSTOP)
            try:
                return load(stack, port, clients, *NOTIFY)
            finally:
                stack.send_signal("redis", signal.SIGCONT)
                stack.kill("api")

        rows: list[str] = []
        for clients in (1, 16, 64):
            sides = [("ours", state) for state in redis] + [("naive", "0 ms"), ("naive", "20 ms")]
            results = alternate({side: partial(measure, *side, clients) for side in sides})
            rates = {side: [one["rate"] for one in many] for side, many in results.items()}
            for side, many in results.items():
                others = (rates["ours", "0 ms"], rates["naive", "20 ms"])
                compared = [show(ratios(rates[side], other), 2) for other in others]
                names = ("cpu", "p99", "live_p50", "live_p99")
                times = [show([one[name] for one in many], 1) for name in names]
                cells = (*side, show(rates[side]), *compared, *times, codes(many))
                add_row("notify", header, rows, clients, *cells)


def http(folder: Path) -> None:
    """The API beside that of the version before."""
    header = (
        "| request | clients | requests/s | before | ratio (goal 0.9) "
        "| CPU, ms per request | before | ratio | p99, ms | before | other than 2xx | before |"
    )
    template = folder / BEFORE
    if not template.exists():
        template.mkdir()
        run("git", "archive", "-o", template / "a.tar", BEFORE, cwd=HERE.parent, env={**os.environ})
        run("tar", "xf", "a.tar", cwd=template)
    projects = (bake(folder, "postgresql"), bake(folder, "postgresql", template))
    rows: list[str] = []
    with started(projects[0]) as new, started(projects[1]) as old:
        ports = {stack: serve(stack, "app.main:app") for stack in (new, old)}
        task = {}
        for stack, port in ports.items():
            stack.tokens = stack.tokens.split(",")[0]  # type: ignore[attr-defined]
            headers = {"Authorization": f"Bearer {stack.tokens}"}  # type: ignore[attr-defined]
            url = f"http://127.0.0.1:{port}"
            queued = httpx.post(url + NOTIFY[1], headers=headers, timeout=30).json()
            task[stack] = queued["task_id"]
            stack.start_worker()
            with httpx.Client(base_url=url, headers=headers) as client:
                wait_for_task(client, task[stack])
            stack.kill("worker")

        def measure(stack: Stack, clients: int, method: str, path: str) -> Any:
            if method == "POST":
                stack.broker.flushdb()
            if method == "POST" and stack is new:
                inside(stack, f"reset('{task[stack]}')")
            path = path.replace("{id}", task[stack])
            load(stack, ports[stack], 4, method, path, seconds=1)
            return load(stack, ports[stack], clients, method, path)

        for request in (
            ("GET", "/health/live"),
            ("GET", "/users/me"),
            NOTIFY,
            ("GET", "/task/{id}"),
        ):
            for clients in (1, 16, 64, 256):
                many = alternate({s: partial(measure, s, clients, *request) for s in (new, old)})
                cells = []
                for figure, digits in (("rate", 0), ("cpu", 2), ("p99", 0)):
                    both = [[one[figure] for one in runs] for runs in many.values()]
                    cells += [show(values, digits) for values in both]
                    cells += [show(ratios(*both), 2)] if figure != "p99" else []
                cells += map(codes, many.values())
                name = " ".join(request).split("?")[0]
                add_row("http", header, rows, f"`{name}`", clients, *cells)


def session(folder: Path) -> None:
    """What ``SessionDep`` costs beside a session that the route opens."""
    header = "| clients | `SessionDep`, requests/s | session in the route | ratio |"
    rows: list[str] = []
    with started(bake(folder, "postgresql")) as stack:
        port = serve(stack, "--factory", "app.tasks.bench:sessions")
        for clients in (1, 16):
            paths = ("/dependency", "/in-route")
            many = alternate({p: partial(load, stack, port, clients, "GET", p) for p in paths})
            rates = [[one["rate"] for one in runs] for runs in many.values()]
            add_row("session", header, rows, clients, *map(show, rates), show(ratios(*rates), 2))


def main() -> None:
    """Run the sections that are named, or all."""
    sections = {f.__name__: f for f in (worker, jobs, notify, waiting_jobs, http, session)}
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
