"""Metrics, alerts and error reports of a generated project at work."""

import gzip
import json
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import Bake
from tests.harness import Stack, find_program, free_port, install, log_in, run, wait_until

pytestmark = pytest.mark.xdist_group("monitoring")  # one process runs them all: they share a stack

TOKEN = "a-token-of-a-test"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
# Prometheus waits this long for a scrape, by default.
LIMIT = 10.0

Samples = dict[str, dict[str, float]]


def promtool() -> str:
    return find_program("promtool", install="apt install prometheus")


def read_metrics(api: httpx.Client) -> tuple[Samples, float]:
    """Return the samples by name and labels, and how long it took."""
    start = time.monotonic()
    response = api.get("/metrics", headers=HEADERS).raise_for_status()
    seconds = time.monotonic() - start
    samples: Samples = {}
    for name, labels, value in re.findall(r"^(\w+)(?:{(.*)})? (\S+)$", response.text, re.M):
        samples.setdefault(name, {})[labels] = float(value)
    return samples, seconds


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"database": "postgresql", "use_backup": False},
        {"use_celery": False},
        {"use_celery": False, "use_redis": False, "use_backup": False},
    ],
    ids=["all", "no-backup", "no-celery", "nothing"],
)
def test_alert_rules_pass_their_tests(bake: Bake, answers: dict[str, str | bool]) -> None:
    project = bake(use_monitoring=True, **answers)
    rules = project / "monitoring/alerts.yml"
    run(promtool(), "check", "rules", rules, cwd=project)
    run(promtool(), "test", "rules", project / "monitoring/alerts_test.yml", cwd=project)
    # Every rule is tested: fired and resolved.
    groups = yaml.safe_load(rules.read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    tests = yaml.safe_load((project / "monitoring/alerts_test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    assert {check["alertname"] for check in checks if "exp_alerts" in check} == alerts
    assert {check["alertname"] for check in checks if "exp_alerts" not in check} == alerts
    # The page says what to do about each.
    page = (project / "docs/monitoring.md").read_text()
    assert {alert for alert in alerts if f"`{alert}`" not in page} == set()


@pytest.fixture(scope="module")
def stack(installed: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A project with PostgreSQL, the API, a worker and beat."""
    project = installed(database="postgresql", use_monitoring=True)
    folder = tmp_path_factory.mktemp("monitoring")
    with Stack(project, folder / "stack", METRICS_TOKEN=TOKEN) as stack:
        stack.api = stack.start_api()  # type: ignore[attr-defined]
        stack.start_worker()
        stack.start_beat()
        yield stack


def test_requests_are_counted_by_route_and_status(stack: Stack) -> None:
    api: httpx.Client = stack.api  # type: ignore[attr-defined]
    labels = 'handler="/task/{task_id}",method="GET",status="4xx"'
    before = read_metrics(api)[0].get("http_requests_total", {}).get(labels, 0)

    def request(number: int) -> int:
        return httpx.get(f"{api.base_url}/task/{number}").status_code

    with ThreadPoolExecutor(8) as executor:
        assert set(executor.map(request, range(50))) == {401}
    assert read_metrics(api)[0]["http_requests_total"][labels] - before == 50
    assert api.get("/metrics").status_code == 404
    wrong = {"Authorization": "Bearer wrong"}
    assert api.get("/metrics", headers=wrong).status_code == 404


def test_scrape_is_bounded_whatever_is_down(stack: Stack, record_property: Any) -> None:
    api: httpx.Client = stack.api  # type: ignore[attr-defined]
    user = log_in(httpx.Client(base_url=api.base_url, timeout=30))

    def scrape(what: str) -> dict[str, float]:
        samples, seconds = read_metrics(api)
        record_property(f"seconds:{what}", round(seconds, 2))
        print(f"{what}: {seconds:.2f} s")
        assert seconds < LIMIT, what
        up = samples["scrape_source_up"]
        return {re.sub(r'.*="(.*)"', r"\1", labels): value for labels, value in up.items()}

    def sources_down(what: str) -> set[str]:
        return {name for name, value in scrape(what).items() if not value}

    assert sources_down("idle") == set()

    end = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=api.base_url, headers=user.headers, timeout=60) as client:
            while not end.is_set():
                client.post("/notify", params={"user_id": 1, "message": "x"})

    with ThreadPoolExecutor(20) as executor:
        for _ in range(20):
            executor.submit(load)
        try:
            under_load = [sources_down("under load") for _ in range(5)]
        finally:
            end.set()
    assert set.intersection(*under_load) == set()

    stack.kill("worker")
    assert sources_down("without a worker") == set()
    assert read_metrics(api)[0]["workers"] == {"": 0}

    stack.send_signal("redis", signal.SIGSTOP)
    assert sources_down("while Redis hangs") == {"queues"}
    stack.send_signal("redis", signal.SIGCONT)
    stack.kill("redis")
    assert sources_down("without Redis") == {"queues"}
    stack.start_redis()
    wait_until(lambda: sources_down("with Redis again") == set())

    stack.stop_database()
    assert sources_down("without the database") == {"jobs", "schedule"}
    stack.start_database()

    stack.start_worker()
    wait_until(lambda: sources_down("again") == set())


@contextmanager
def prometheus(stack: Stack, folder: Path) -> Iterator[httpx.Client]:
    """Run Prometheus with the project's rules, where each alert fires at once."""
    shutil.copytree(stack.project / "monitoring", folder)
    rules = folder / "alerts.yml"
    rules.write_text(re.sub(r"^( *for:) .*", r"\1 0s", rules.read_text(), flags=re.M))
    (folder / "metrics_token").write_text(TOKEN)
    path = folder / "prometheus.yml"
    config = yaml.safe_load(path.read_text())
    config["global"] = {"scrape_interval": "5s", "evaluation_interval": "1s"}
    [job] = config["scrape_configs"]
    job["authorization"]["credentials_file"] = str(folder / "metrics_token")
    job["static_configs"][0]["targets"] = [stack.api.base_url.netloc.decode()]  # type: ignore[attr-defined]
    path.write_text(yaml.safe_dump(config))
    program = find_program("prometheus", install="apt install prometheus")
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}"]
    stack.start("prometheus", program, *options, f"--web.listen-address={address}")
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1/", timeout=10) as client:
            stack.wait_for_log("prometheus", "Server is ready")
            yield client
    finally:
        stack.kill("prometheus")


def firing(client: httpx.Client) -> set[str]:
    alerts = client.get("alerts").raise_for_status().json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def test_prometheus_alerts_when_beat_and_worker_stop(stack: Stack, tmp_path: Path) -> None:
    with prometheus(stack, tmp_path / "prometheus") as client:

        def query(expression: str) -> list[Any]:
            response = client.get("query", params={"query": expression}).raise_for_status()
            result: list[Any] = response.json()["data"]["result"]
            return result

        user = log_in(stack.api)  # type: ignore[attr-defined]
        user.post("/notify", params={"user_id": 1, "message": "hello"}).raise_for_status()
        wait_until(lambda: query("http_requests_total"), 120, "there are no metrics of requests")
        wait_until(lambda: query("workers == 1"), 120, "the worker is not seen")
        wait_until(lambda: not firing(client), message="alerts fire in a new project")

        stack.kill("beat")
        stack.kill("worker")
        wait_until(lambda: {"BeatSilent", "NoWorker"} <= firing(client), 120)
        stack.start_beat()
        stack.start_worker()
        wait_until(lambda: not firing(client), 60)

        # All that alerts and dashboard refer to exists.
        known = set(client.get("label/__name__/values").json()["data"])
        dashboard = json.loads((stack.project / "monitoring/dashboard.json").read_text())
        texts = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        groups = yaml.safe_load((stack.project / "monitoring/alerts.yml").read_text())["groups"]
        texts += [rule["expr"] for group in groups for rule in group["rules"]]
        for text in texts:
            query(text.replace("$__rate_interval", "1m"))
        text = re.sub(r"\{[^}]*\}|\b(?:by|on|without) *\([^)]*\)|\[[^]]*\]", "", "\n".join(texts))
        names = set(re.findall(r"\b[a-z]+(?:_[a-z]+)*\b(?! *\()", text))
        names -= {
            "and",
            "or",
            "unless",
            "by",
            "offset",
        }
        names -= {"jobs"}  # perhaps none waits, runs or has failed
        assert names - known == set()
        rules = client.get("rules").json()["data"]["groups"]
        assert {rule["health"] for group in rules for rule in group["rules"]} == {"ok"}


class Receiver:
    """An HTTP server that keeps the bodies of what it receives."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                bodies.append((self.path, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> "Receiver":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


# A route that fails, with a task that fails.
FAILING_TASK = """
from app.core.celery import celery_app


@celery_app.task
def fail() -> None:
    raise ValueError("the task fails")
"""
FAILING_ROUTE = """

from app.tasks.failing import fail  # noqa: E402


@app.post("/fail")
def fail_twice() -> None:
    fail.delay()
    raise ValueError("the request fails")
"""


def test_errors_of_requests_and_tasks_reach_sentry(
    tmp_path_factory: pytest.TempPathFactory, bake: Bake, tmp_path: Path
) -> None:
    project = tmp_path_factory.mktemp("failing") / "my-api"
    shutil.copytree(bake(), project)
    (project / "app/tasks/failing.py").write_text(FAILING_TASK)
    with (project / "app/main.py").open("a") as main:
        main.write(FAILING_ROUTE)
    install(project)
    with (
        Receiver() as receiver,
        Stack(project, tmp_path / "stack", SENTRY_DSN=f"http://key@{receiver.address}/1") as stack,
    ):
        api = stack.start_api()
        stack.start_worker()
        assert api.post("/fail").status_code == 500

        def errors() -> set[str]:
            lines = [line for _, body in receiver.bodies for line in body.splitlines()]
            items = [json.loads(line) for line in lines if line.startswith(b"{")]
            events = [item for item in items if "exception" in item]
            return {event["exception"]["values"][-1]["value"] for event in events}

        wait_until(lambda: errors() == {"the request fails", "the task fails"})
