"""Metrics, alerts, traces and error reports of a generated project at work."""

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
# What a scrape may take. Each source has 1.5 seconds; a test machine may be busy.
LIMIT = 5.0

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
    project = bake(**answers)
    rules = project / "monitoring/alerts.yml"
    run(promtool(), "check", "rules", rules, cwd=project)
    run(promtool(), "test", "rules", project / "monitoring/alerts_test.yml", cwd=project)
    # Every rule is tested: fired and resolved.
    groups = yaml.safe_load(rules.read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    tests = yaml.safe_load((project / "monitoring/alerts_test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == alerts
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == alerts
    # The page says what to do about each.
    page = (project / "docs/monitoring.md").read_text()
    assert {alert for alert in alerts if f"`{alert}`" not in page} == set()


@pytest.fixture(scope="module")
def stack(installed: Bake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A project with PostgreSQL, two API processes, a worker and beat."""
    project = installed(database="postgresql")
    folder = tmp_path_factory.mktemp("monitoring")
    (folder / "metrics").mkdir()
    with Stack(project, folder / "stack", METRICS_TOKEN=TOKEN) as stack:
        stack.api = stack.start_api(  # type: ignore[attr-defined]
            WEB_CONCURRENCY="2", PROMETHEUS_MULTIPROC_DIR=str(folder / "metrics")
        )
        stack.start_worker()
        stack.start_beat()
        yield stack


def test_requests_of_all_processes_are_counted(stack: Stack) -> None:
    api: httpx.Client = stack.api  # type: ignore[attr-defined]
    labels = 'method="GET",route="/task/{task_id}",status="401"'
    name = "http_request_duration_seconds_count"
    before = read_metrics(api)[0].get(name, {}).get(labels, 0)

    def request(number: int) -> int:
        return httpx.get(f"{api.base_url}/task/{number}").status_code

    with ThreadPoolExecutor(8) as executor:
        assert set(executor.map(request, range(200))) == {401}
    counts = {read_metrics(api)[0][name][labels] - before for _ in range(20)}
    assert counts == {200}


def test_scrape_is_bounded_whatever_is_down(stack: Stack, record_property: Any) -> None:
    api: httpx.Client = stack.api  # type: ignore[attr-defined]
    user = log_in(httpx.Client(base_url=api.base_url, timeout=30))

    def scrape(what: str) -> dict[str, float]:
        samples, seconds = read_metrics(api)
        record_property(f"seconds:{what}", round(seconds, 2))
        print(f"{what}: {seconds:.2f} s")
        assert seconds < LIMIT, what
        up = samples["dependency_up"] | samples["scrape_source_up"]
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

    redis = {"redis", "broker", "queues", "workers"}
    stack.send_signal("redis", signal.SIGSTOP)
    assert sources_down("while Redis hangs") == redis
    stack.send_signal("redis", signal.SIGCONT)
    stack.kill("redis")
    assert sources_down("without Redis") == redis
    stack.start_redis()

    # Before the first backup, its age is that of the schedule.
    database = {"database", "migrations", "jobs", "schedule", "backups"}
    stack.send_signal("database", signal.SIGSTOP, family=True)
    # To see that there is no worker takes all the time that a source has.
    assert sources_down("while the database hangs") - {"workers"} == database
    stack.send_signal("database", signal.SIGCONT, family=True)
    stack.stop_database()
    assert sources_down("without the database") - {"workers"} == database
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
        wait_until(lambda: query("jobs_recent"), 120, "there are no metrics of jobs")
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
        text = re.sub(r'"[^"]*"|\b(?:by|on|without) *\([^)]*\)|\[[^]]*\]', "", "\n".join(texts))
        names = set(re.findall(r"\b[a-z]+(?:_[a-z]+)*\b(?! *\()", text))
        names -= {
            "and",
            "or",
            "unless",
            "by",
            "le",
            "status",
            "route",
            "job",
            "dependency",
            "source",
        }
        # There is no off-site copy, and perhaps no job that waits, runs or has failed.
        names -= {"backup_copy_age_seconds", "jobs", "worker_active_tasks"}
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


# A route whose job queues a job that queues a job.
FAMILY_TASK = """
from app.core.celery import celery_app
from app.core.database import session_scope
from app.jobs import enqueue

NEXT = {"son": "grandson"}


@celery_app.task
def descend(name: str) -> None:
    if name in NEXT:
        with session_scope() as session:
            enqueue(session, descend, name=NEXT[name])


@celery_app.task
def fail(name: str) -> None:
    password = name
    raise ValueError(f"postgresql://user:{password}@host/db failed")
"""
FAMILY_ROUTE = """

from app.api.deps import SessionDep  # noqa: E402
from app.jobs import enqueue  # noqa: E402
from app.tasks.family import descend, fail  # noqa: E402


@app.post("/family")
def family(session: SessionDep, name: str) -> None:
    enqueue(session, descend, name=name)


@app.post("/fail")
def fail_twice(session: SessionDep, name: str) -> None:
    fail.delay(name=name)
    raise ValueError(f"postgresql://user:{name}@host/db failed")
"""
DECODE = """
import json, sys
from pathlib import Path
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

spans = []
for path in Path(sys.argv[1]).iterdir():
    request = ExportTraceServiceRequest.FromString(path.read_bytes())
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            spans += [MessageToDict(span) for span in scope.spans]
print(json.dumps(spans))
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, bake: Bake) -> Path:
    """A project with a family of tasks."""
    project = tmp_path_factory.mktemp("family") / "my-api"
    shutil.copytree(bake(), project)
    (project / "app/tasks/family.py").write_text(FAMILY_TASK)
    with (project / "app/main.py").open("a") as main:
        main.write(FAMILY_ROUTE)
    install(project)
    return project


def test_one_trace_from_the_request_to_the_grandchild_job(family: Path, tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        Stack(
            family, tmp_path / "stack", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{receiver.address}"
        ) as stack,
    ):
        api = stack.start_api()
        stack.start_worker()
        api.post("/family", params={"name": "son"}).raise_for_status()
        api.post("/fail", params={"name": "secret-words"})
        (tmp_path / "spans").mkdir()

        def spans() -> list[dict[str, Any]]:
            for number, (path, body) in enumerate(receiver.bodies):
                assert path == "/v1/traces"
                (tmp_path / f"spans/{number}").write_bytes(body)
            spans: list[dict[str, Any]] = json.loads(stack.python(DECODE, str(tmp_path / "spans")))
            return spans

        def tasks() -> list[dict[str, Any]]:
            return [span for span in spans() if span["name"].startswith("run ")]

        wait_until(lambda: len(tasks()) == 3, 60)
        stack.stop("worker")
        stack.stop("api")
        everything = spans()
        text = json.dumps(everything)

    by_id = {span["spanId"]: span for span in everything}

    def ancestors(span: dict[str, Any]) -> list[str]:
        parent = by_id.get(span.get("parentSpanId", ""))
        return [span["name"], *(ancestors(parent) if parent else [])]

    paths = [
        [name for name in ancestors(span) if name.startswith(("run ", "POST "))]
        for span in everything
        if span["name"].startswith("run ")
    ]
    son = "run app.tasks.family.descend"
    assert [son, son, "POST /family"] in paths
    assert [son, "POST /family"] in paths
    assert ["run app.tasks.family.fail", "POST /fail"] in paths
    assert len({span["traceId"] for span in everything if span["name"] == son}) == 1
    assert any(span["name"] == "INSERT" for span in everything)
    assert "secret-words" not in text


def test_errors_of_requests_and_tasks_reach_sentry(family: Path, tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        Stack(family, tmp_path / "stack", SENTRY_DSN=f"http://key@{receiver.address}/1") as stack,
    ):
        api = stack.start_api()
        stack.start_worker()
        api.post("/family", params={"name": "son"}).raise_for_status()
        assert api.post("/fail", params={"name": "secret-words"}).status_code == 500

        def events() -> list[dict[str, Any]]:
            lines = [line for _, body in receiver.bodies for line in body.splitlines()]
            items = [json.loads(line) for line in lines if line.startswith(b"{")]
            return [item for item in items if "exception" in item]

        wait_until(lambda: len(events()) == 2)
        wait_until(lambda: stack.log("worker").count("succeeded") == 2)
        errors = [event["exception"]["values"][-1] for event in events()]
        assert {error["value"] for error in errors} == {"postgresql://user:***@host/db failed"}
        text = b"".join(body for _, body in receiver.bodies)
        assert b"secret-words" not in text


def test_nothing_is_imported_unless_it_is_configured(installed: Bake, tmp_path: Path) -> None:
    project = installed(database="postgresql")
    code = "import sys, app.main; print([n for n in sys.modules if n in {'sentry_sdk', 'app.core.tracing'}])"
    run_in = Stack(project, tmp_path, servers=False)
    assert run_in.python(code).strip().splitlines()[-1] == "[]"
