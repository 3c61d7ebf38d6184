"""Tasks: how fast beside a bare Celery app, on the same Redis, in turns.

``python benchmarks/delivery.py [section ...]`` measures and writes the tables into README.md.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tables import ratios, show, write  # noqa: E402

from tests.stack import Postgres, Stack, bake, free_port, wait_until  # noqa: E402

RUNS = 5
SECTIONS = {}

NOOP = '''"""For the benchmarks."""

from app.core.celery import celery_app


@celery_app.task
def noop(number: int) -> int:
    """Do nothing."""
    return number
'''

LATENCY = """
import sys, time
sys.path.insert(0, {path!r})
from {module} import noop
noop.delay(0).get(timeout=30)
times = []
for number in range(150):
    begin = time.perf_counter()
    noop.delay(number).get(timeout=30)
    times.append(time.perf_counter() - begin)
times.sort()
print(times[75] * 1000, times[148] * 1000)
"""


def section(function):
    SECTIONS[function.__name__] = function
    return function


def stack(project, folder, **environment):
    """Return a stack where the bare app has databases 5 and 6 of the same Redis."""
    made = Stack(project, folder, **{"LOG_LEVEL": "WARNING"} | environment)
    made.environment |= {
        "BARE_BROKER": f"redis://127.0.0.1:{made.redis_port}/5",
        "BARE_BACKEND": f"redis://127.0.0.1:{made.redis_port}/6",
    }
    return made


def of_bare(made):
    """Return the environment of the bare app: Celery reads these names by itself."""
    bare = made.environment
    return {"CELERY_BROKER_URL": bare["BARE_BROKER"], "CELERY_RESULT_BACKEND": bare["BARE_BACKEND"]}


def start_workers(made, processes):
    """Start both workers, each with so many processes."""
    made.start_worker("ours", CELERY_WORKER_CONCURRENCY=str(processes), LOG_LEVEL="INFO")
    celery = [made.python, "-m", "celery", "--workdir", str(HERE), "-A", "bare.celery_app"]
    made.start(
        "bare",
        *(*celery, "worker", "-c", str(processes), "--loglevel=info", "-n", "bare@%h"),
        **of_bare(made),
    )
    wait_until(lambda: " ready" in made.log("bare"))


def fill(made, side, count):
    """Queue so many tasks; return seconds per task."""
    client = made.client if side == "ours" else made.bare_client
    name = "app.tasks.bench.noop" if side == "ours" else "bare.noop"
    with client.producer_or_acquire() as producer:
        begin = time.perf_counter()
        for number in range(count):
            client.send_task(name, (number,), producer=producer, ignore_result=False)
        return (time.perf_counter() - begin) / count


def left(made, side):
    broker = made.broker if side == "ours" else made.bare_broker
    return broker.llen("celery") + broker.hlen("unacked")


def drain(made, side, count):
    """Let a worker do the tasks that are waiting; return how many it did per second."""
    made.signal(side, signal.SIGSTOP, group=True)
    fill(made, side, count)
    made.signal(side, signal.SIGCONT, group=True)
    waiting = left(made, side)
    wait_until(lambda: left(made, side) < waiting - 50)  # awake and warm
    begin, first = time.perf_counter(), left(made, side)
    while left(made, side):
        time.sleep(0.005)
    return first / (time.perf_counter() - begin)


def with_bare_clients(made):
    from celery import Celery
    from redis import Redis

    made.bare_broker = Redis(port=made.redis_port, db=5)
    url = f"redis://127.0.0.1:{made.redis_port}"
    made.bare_client = Celery("other", broker=f"{url}/5", set_as_current=False)
    made.client = Celery("client", broker=f"{url}/1", set_as_current=False)


@section
def worker(project, folder):
    """Tasks per second."""
    lines = [
        "| no-op tasks per second | ours | bare, defaults | ratio, goal 1.0 |",
        "|---|---|---|---|",
    ]
    for processes in (4, 1):
        with stack(project, folder / f"worker-{processes}") as made:
            with_bare_clients(made)
            start_workers(made, processes)
            rates = {"ours": [], "bare": []}
            for side in rates:
                drain(made, side, 300)
            for _ in range(RUNS):
                for side in rates:
                    rates[side].append(drain(made, side, 1000))
        ours, bare = rates["ours"], rates["bare"]
        lines.append(
            f"| {processes} process{'es' * (processes > 1)} | {show(ours)} | {show(bare)} | "
            f"{show(ratios(ours, bare), 2)} |"
        )
        print(lines[-1], flush=True)
    return lines


@section
def latency(project, folder):
    """Enqueue to result, one at a time."""
    times = {"ours": [], "bare": []}
    with stack(project, folder / "latency") as made:
        with_bare_clients(made)
        start_workers(made, 1)
        for _ in range(RUNS):
            for side, module in (("ours", "app.tasks.bench"), ("bare", "bare")):
                path = str(project if side == "ours" else HERE)
                code = LATENCY.format(path=path, module=module)
                out = subprocess.run(
                    [made.python, "-c", code],
                    env=made.environment | (of_bare(made) if side == "bare" else {}),
                    cwd=project,
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                times[side].append([float(value) for value in out.split()])
    lines = ["| enqueue to result, ms | ours | bare | ratio, goal 1.1 |", "|---|---|---|---|"]
    for index, name in enumerate(("p50", "p99")):
        ours, bare = ([run[index] for run in times[side]] for side in ("ours", "bare"))
        lines.append(
            f"| {name} | {show(ours, 2)} | {show(bare, 2)} | {show(ratios(ours, bare), 2)} |"
        )
        print(lines[-1], flush=True)
    return lines


def load(port, clients, seconds, method, path, token=None):
    command = [
        sys.executable,
        str(HERE / "load.py"),
        *map(str, (port, clients, seconds, method, path)),
    ]
    out = subprocess.run(
        [*command, *([token] if token else [])], check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout)


def start_naive(made, name, **environment):
    port = free_port()
    made.start(
        name,
        *(made.python, "-m", "uvicorn", "bare:app", "--app-dir", str(HERE), "--port", str(port)),
        BARE_API="1",
        CELERY_BROKER_URL=environment["BARE_BROKER"],
        CELERY_RESULT_BACKEND=environment["BARE_BACKEND"],
        **environment,
    )
    wait_until(lambda: is_live(port))
    return port


def is_live(port):
    """Return whether an API answers there."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    except httpx.HTTPError:
        return False


@section
def enqueue(project, folder):
    """Requests per second through the API."""
    lines = [
        "| `POST /notify` | clients | ours/s | naive/s | ratio "
        "| our `/health/live` p50, p99 ms | naive's |",
        "|---|---|---|---|---|---|---|",
    ]
    path = "/notify?user_id=1&message=hello"
    with stack(project, folder / "enqueue", LOG_LEVEL="INFO") as made:
        made.migrate()
        slow = free_port()
        made.start(
            "proxy", sys.executable, str(HERE / "proxy.py"), str(slow), str(made.redis_port), "20"
        )
        refused = free_port()
        ports, tokens = {}, {}
        for where, port in (("0 ms", made.redis_port), ("20 ms", slow), ("refused", refused)):
            url = f"redis://127.0.0.1:{port}"
            api = made.start_api(
                f"ours {where}", CELERY_BROKER_URL=f"{url}/1", CELERY_RESULT_BACKEND=f"{url}/2"
            )
            ports["ours", where] = api.base_url.port
            tokens[where] = api.headers["Authorization"].split()[1]
            ports["naive", where] = start_naive(
                made, f"naive {where}", BARE_BROKER=f"{url}/5", BARE_BACKEND=f"{url}/6"
            )
        for where, all_clients, runs in (
            ("idle", (0,), RUNS),
            ("0 ms", (1, 16, 64), RUNS),
            ("20 ms", (1, 16, 64), RUNS),
            ("refused", (16,), RUNS),
        ):
            for clients in all_clients:
                results = {"ours": [], "naive": []}
                for number in range(runs):
                    for side in results:
                        if (side, where) == ("naive", "refused") and number:
                            continue  # each of its requests freezes it for 19 s
                        port = ports[side, "0 ms" if where == "idle" else where]
                        token = tokens.get(where) if side == "ours" else None
                        results[side].append(load(port, clients, 1.5, "POST", path, token))
                        made.broker.flushall()

                def column(side, name, digits, results=results):
                    return show([run[name] for run in results[side]], digits)

                good = where != "refused" and clients
                ratio = (
                    ratios(*([run["rate"] for run in results[side]] for side in results))
                    if good
                    else []
                )
                lines.append(
                    f"| Redis {where} | {clients} | {column('ours', 'rate', 0)} | "
                    f"{column('naive', 'rate', 0)} | {show(ratio, 2) if ratio else ''} | "
                    f"{column('ours', 'live_p50', 1)}, {column('ours', 'live_p99', 1)} | "
                    f"{column('naive', 'live_p50', 1)}, {column('naive', 'live_p99', 1)} |"
                )
                codes = [run["codes"] for run in results["ours"]]
                print(lines[-1], codes[0], flush=True)
    return lines


@section
def database(project, folder):
    """The one synchronous engine beside an asynchronous one."""
    lines = [
        "| `GET /users/me`, PostgreSQL | ours/s | asynchronous/s | ratio "
        "| our p99 ms | its p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    uv = os.environ.get("UV", "uv")
    command = [uv, "pip", "install", "--quiet", "sqlalchemy[asyncio]"]
    subprocess.run(command, check=True, env=os.environ | {"VIRTUAL_ENV": str(project / ".venv")})
    made = stack(project, folder / "database")
    made.postgres = Postgres(made)
    with made:
        made.postgres.start()
        made.migrate()
        api = made.start_api("ours")
        token = api.headers["Authorization"].split()[1]
        other = free_port()
        made.start(
            "async",
            *(made.python, "-m", "uvicorn", "async_me:app", "--port", str(other)),
            PYTHONPATH=os.pathsep.join([str(HERE), str(project)]),
        )
        wait_until(lambda: is_live(other))
        for clients in (1, 16, 64):
            results = {"ours": [], "async": []}
            for _ in range(RUNS):
                for side, port in (("ours", api.base_url.port), ("async", other)):
                    answer = load(port, clients, 1.5, "GET", "/users/me", token)
                    assert set(answer["codes"]) == {"200"}, answer
                    results[side].append(answer)
            rate = {side: [run["rate"] for run in results[side]] for side in results}
            p99 = {side: [run["p99"] for run in results[side]] for side in results}
            lines.append(
                f"| {clients} client{'s' * (clients > 1)} | {show(rate['ours'])} "
                f"| {show(rate['async'])} | {show(ratios(rate['ours'], rate['async']), 2)} "
                f"| {show(p99['ours'])} | {show(p99['async'])} |"
            )
            print(lines[-1], flush=True)
    return lines


def memory(pid):
    """Return a process's own share of memory and its children's, each in MB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def pss(one):
        text = Path(f"/proc/{one}/smaps_rollup").read_text()
        return int(text.split("Pss:")[1].split()[0]) / 1024

    return pss(pid), [pss(child) for child in children]


@section
def start(project, folder):
    """Start-up and memory."""
    lines = ["| start | ours | bare | ratio |", "|---|---|---|---|"]
    with stack(project, folder / "start") as made:
        with_bare_clients(made)
        imports = {"ours": [], "bare": []}
        ready = {"ours": [], "bare": []}
        own = {"ours": [], "bare": []}
        child = {"ours": [], "bare": []}
        for _ in range(RUNS):
            for side in imports:
                module, cwd = ("app.main", project) if side == "ours" else ("bare", HERE)
                begin = time.perf_counter()
                subprocess.run(
                    [made.python, "-c", f"import {module}"],
                    cwd=cwd,
                    env=made.environment | {"BARE_API": "1"},
                    check=True,
                )
                imports[side].append(time.perf_counter() - begin)
        celery = [made.python, "-m", "celery"]
        bare = [*celery, "--workdir", str(HERE), "-A", "bare.celery_app"]
        commands = {"ours": [*celery, "-A", "app.core.celery.celery_app"], "bare": bare}
        for number in range(RUNS):
            for side, command in commands.items():
                name = f"{side}{number}"
                begin = time.perf_counter()
                made.start(
                    name,
                    *(*command, "worker", "-c", "2", "--loglevel=info"),
                    LOG_LEVEL="INFO",
                    **(of_bare(made) if side == "bare" else {}),
                )
                wait_until(lambda name=name: " ready" in made.log(name))
                ready[side].append(time.perf_counter() - begin)
                parent, children = memory(made.processes[name].pid)
                own[side].append(parent)
                child[side].append(median(children))
                made.kill(name)
        for name, values, digits in (
            ("API import, s", imports, 2),
            ("worker ready, s", ready, 2),
            ("worker's main process, MB (PSS)", own, 0),
            ("each pool process, MB (PSS)", child, 0),
        ):
            lines.append(
                f"| {name} | {show(values['ours'], digits)} | {show(values['bare'], digits)} | "
                f"{show(ratios(values['ours'], values['bare']), 2)} |"
            )
            print(lines[-1], flush=True)
    return lines


@section
def growth(project, folder):
    """Cost as the queue grows."""
    lines = [
        "| waiting tasks | enqueue, ms per task "
        "| Redis memory, bytes per task | drained per second |",
        "|---|---|---|---|",
    ]
    with stack(project, folder / "growth") as made:
        with_bare_clients(made)
        made.start_worker("ours", CELERY_WORKER_CONCURRENCY="4", LOG_LEVEL="INFO")
        drain(made, "ours", 500)
        for size in (1_000, 10_000, 100_000):
            made.signal("ours", signal.SIGSTOP, group=True)
            made.broker.flushall()
            empty = made.redis.info("memory")["used_memory"]
            step = size // 20
            fill(made, "ours", size - RUNS * step)
            costs = [fill(made, "ours", step) * 1000 for _ in range(RUNS)]
            bytes_each = (made.redis.info("memory")["used_memory"] - empty) / size
            made.signal("ours", signal.SIGCONT, group=True)
            wait_until(lambda size=size: left(made, "ours") < size - 50)
            rates = []
            for _ in range(RUNS):
                first, begin = left(made, "ours"), time.perf_counter()
                step = min(1000, size // 8)
                while left(made, "ours") > first - step:
                    time.sleep(0.002)
                rates.append((first - left(made, "ours")) / (time.perf_counter() - begin))
            lines.append(f"| {size} | {show(costs, 2)} | {bytes_each:.0f} | {show(rates)} |")
            print(lines[-1], flush=True)
            made.signal("ours", signal.SIGSTOP, group=True)
            made.broker.flushall()
            made.signal("ours", signal.SIGCONT, group=True)
    return lines


def main(names):
    with tempfile.TemporaryDirectory(prefix="forge-") as folder:
        folder = Path(folder)
        projects = {database: bake(folder, database) for database in ("sqlite", "postgresql")}
        for project in projects.values():
            (project / "app" / "tasks" / "bench.py").write_text(NOOP)
        for name in names or SECTIONS:
            print(f"# {name}", flush=True)
            project = projects["postgresql" if name == "database" else "sqlite"]
            lines = SECTIONS[name](project, folder)
            write(f"delivery-{name}", "\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
