"""The Compose stack, built and run.

One stack for each database and for each answer that takes services away. All tests of a stack share
it, and it is removed at the end. Run one with ``-k postgresql``.
"""

import json
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import httpx
import pytest

from tests.conftest import Bake
from tests.harness import Answers, ComposeStack, require_docker, wait_for_task, wait_until

# The database clients are those of Debian 13, which the images of Python 3.14 need not be.
STACKS: dict[str, Answers] = {
    "postgresql": {"database": "postgresql", "python_version": "3.13", "use_monitoring": True},
    "mysql": {"database": "mysql", "python_version": "3.12"},
    "sqlite": {"database": "sqlite"},
    "without_redis": {"database": "sqlite", "use_celery": False, "use_redis": False},
}


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these stacks, each stack in one process of pytest-xdist."""
    params = [
        pytest.param(name, marks=pytest.mark.xdist_group(f"stack-{name}"), id=name)
        for name in STACKS
        if name in names
    ]
    return pytest.mark.parametrize("stack", params, indirect=True, scope="module")


on_all = on(*STACKS)
with_celery = on("postgresql", "mysql", "sqlite")
with_server = on("postgresql", "mysql")
# What does not depend on the database.
on_one = on("postgresql")


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeStack]:
    """A stack that is up and healthy."""
    require_docker()
    project = bake(project_name=f"Stack {request.param}", **STACKS[request.param])
    stack = ComposeStack(project, tmp_path_factory.mktemp("stack"))
    # As umask 027 leaves them.
    stack.run("chmod", "-R", "o-rwx", "app", "migrations", "pyproject.toml")
    try:
        stack.up("--build")
        yield stack
    finally:
        stack.remove()


@on_all
def test_every_service_is_healthy(stack: ComposeStack) -> None:
    states = {c["Service"]: (c["State"], c["Health"], c["ExitCode"]) for c in stack.containers()}
    assert states.pop("db-migrate") == ("exited", "", 0)
    assert states == {
        name: ("running", "healthy", 0) for name in stack.services if name != "db-migrate"
    }


@on_all
def test_no_process_is_root_or_can_write_to_its_image(stack: ComposeStack) -> None:
    for container in stack.running():
        processes = stack.run("docker", "top", container["Id"], "-eo", "uid,pid").splitlines()[1:]
        assert processes
        assert "0" not in {line.split()[0] for line in processes}, container["Name"]
        service = container["Config"]["Labels"]["com.docker.compose.service"]
        # Compose writes the configuration of Redis and the token of Prometheus into the container.
        read_only = service not in ("redis", "prometheus")
        assert container["HostConfig"]["ReadonlyRootfs"] == read_only, service
        assert container["HostConfig"]["PidsLimit"] > 0, container["Name"]


@on_all
def test_the_image_has_no_secret_and_no_compiler(stack: ComposeStack) -> None:
    image = stack.config()["services"]["app"]["image"]
    history = stack.run("docker", "history", "--no-trunc", image)
    settings = stack.run("docker", "inspect", image)
    look = "find / -xdev -name '.env*' -o -xdev -name uv -type f; command -v gcc cc uv || true"
    # As root, who can read everything.
    assert not stack.run("docker", "run", "--rm", "--user=0", image, "sh", "-c", look)
    assert stack.secrets
    for name, secret in stack.secrets.items():
        assert secret not in history, name
        assert secret not in settings, name


@with_server
def test_the_client_programs_have_the_major_version_of_the_server(stack: ComposeStack) -> None:
    # `postgres (PostgreSQL) 17.2`, `mariadb-dump from 11.8.3-MariaDB, client 10.20`
    number = re.compile(r"(?:\) |Ver |from )(\d+(?:\.\d+)?)")
    if "postgres" in stack.config()["services"]["db"]["image"]:
        client, server, major = "pg_dump", "postgres", r"\d+"
    else:
        client, server, major = "mariadb-dump", "mariadbd", r"\d+\.\d+"
    outputs = (
        stack.execute("app", client, "--version"),
        stack.execute("db", server, "--version"),
    )
    versions = {re.match(major, found[1]) for text in outputs if (found := number.search(text))}
    assert len({found[0] for found in versions if found}) == 1, outputs


@on_all
def test_the_api_answers(stack: ComposeStack) -> None:
    user = stack.log_in()
    assert user.get("/users/me").json()["email"] == "first@example.com"
    assert stack.api().get("/users/me").status_code == 401
    ready = stack.api().get("/health/ready")
    assert ready.status_code == 200, ready.text


@with_celery
def test_a_job_runs(stack: ComposeStack) -> None:
    user = stack.log_in()
    queued = user.post("/notify?user_id=1&message=hello")
    assert queued.status_code == 202
    task = wait_for_task(user, queued.json()["task_id"], 20)
    assert task["result"] == {"status": "sent", "user_id": 1}


@with_celery
def test_flower_needs_a_password_and_is_read_only(stack: ComposeStack) -> None:
    address = f"http://{stack.address('flower', 5555)}"
    password = stack.variables["FLOWER_PASSWORD"]
    assert httpx.get(f"{address}/workers").status_code == 401
    assert httpx.get(f"{address}/api/workers", auth=("admin", "wrong")).status_code == 401
    with httpx.Client(base_url=address, auth=("admin", password)) as flower:
        assert flower.get("/workers").status_code == 200
        [worker] = flower.get("/api/workers?refresh=1").json()
        assert flower.post(f"/api/worker/shutdown/{worker}").status_code == 403
    assert stack.health("celery-worker") == "healthy"


@on_one
def test_flower_shows_how_many_messages_wait(stack: ComposeStack) -> None:
    user = stack.log_in()
    stack.compose("stop", "celery-worker", "celery-beat")
    tasks = [user.post("/notify?user_id=1&message=hello").json()["task_id"] for _ in range(3)]
    auth = ("admin", stack.variables["FLOWER_PASSWORD"])
    url = f"http://{stack.address('flower', 5555)}/api/queues/length"

    def waiting() -> int:
        queues = httpx.get(url, auth=auth).json()["active_queues"]
        return {queue["name"]: int(queue["messages"]) for queue in queues}["celery"]

    wait_until(lambda: waiting() >= 3, 20)
    stack.compose("start", "celery-worker", "celery-beat")
    for task in tasks:
        wait_for_task(user, task, 60)
    wait_until(lambda: waiting() == 0, 20)
    stack.wait_for_health("healthy", "celery-worker", "celery-beat")


@with_celery
def test_redis_needs_a_password_and_keeps_its_data(stack: ComposeStack) -> None:
    assert "NOAUTH" in stack.redis("--pass wrong ping")
    config = stack.redis("CONFIG GET maxmemory-policy") + stack.redis("CONFIG GET appendonly")
    assert config.split() == ["maxmemory-policy", "noeviction", "appendonly", "yes"]
    [container] = stack.running("redis")
    commands = stack.run("docker", "top", container["Id"], "-eo", "pid,args")
    assert stack.variables["REDIS_PASSWORD"] not in commands


@on_all
def test_a_backup_is_made_verified_and_restored(stack: ComposeStack) -> None:
    kept = stack.log_in("kept@example.com")
    made = json.loads(stack.backup("create"))["file"]
    assert made in stack.execute("app", "ls", "/backups")
    stack.backup("verify", made)
    lost = stack.log_in("lost@example.com")
    if str(stack.variables["DATABASE_URL"]).startswith("sqlite"):
        with pytest.raises(AssertionError, match="stop the application"):
            stack.backup("restore", made, "--yes")
    else:  # The API, which runs all the time, sees the restored database.
        stack.backup("restore", made, "--yes")
        assert stack.api().get("/users/me", headers=lost.headers).status_code == 401
    assert made in stack.follow("docs/deployment.md", "app.backup restore")
    api = stack.api()
    assert api.get("/users/me", headers=kept.headers).status_code == 200
    assert api.get("/users/me", headers=lost.headers).status_code == 401
    assert api.get("/health/ready").status_code == 200


@with_server
def test_the_database_alone_for_development(stack: ComposeStack) -> None:
    """By the command of README.md, which publishes its port."""
    stack.follow("README.md", "up -d --wait db")
    [container] = stack.containers("db")
    assert any(port["PublishedPort"] for port in container["Publishers"])
    stack.up()


@on("postgresql")
def test_dump_before_an_upgrade(stack: ComposeStack) -> None:
    stack.log_in("dumped@example.com")
    stack.follow("docs/deployment.md", "pg_dump")
    assert "dumped@example.com" in (stack.folder / "upgrade.sql").read_text()
    stack.up()


@on("postgresql")
def test_a_job_runs_again_after_its_worker_was_killed(stack: ComposeStack) -> None:
    user = stack.log_in()
    [task] = stack.enqueue_work(user, seconds=10)
    wait_until(lambda: user.get(f"/task/{task}").json()["status"] == "STARTED", 20)
    stack.compose("kill", "--signal=KILL", "celery-worker")
    stack.compose("up", "-d", "--no-recreate", "celery-worker")
    assert wait_for_task(user, task, 60)["status"] == "SUCCESS"


@on_one
def test_a_running_job_finishes_when_its_worker_is_stopped(stack: ComposeStack) -> None:
    user = stack.log_in()
    [task] = stack.enqueue_work(user, seconds=9)  # It has ten seconds to finish.
    wait_until(lambda: user.get(f"/task/{task}").json()["status"] == "STARTED", 20)
    stack.compose("stop", "celery-worker")
    assert user.get(f"/task/{task}").json()["status"] == "SUCCESS"
    [container] = stack.containers("celery-worker")
    assert container["ExitCode"] != 137  # SIGKILL, at the end of the grace period
    stack.compose("start", "celery-worker")
    stack.wait_for_health("healthy", "celery-worker")


@on_one
def test_three_workers_share_the_work(stack: ComposeStack) -> None:
    user = stack.log_in()
    stack.up("--scale=celery-worker=3", "--no-recreate", "--no-deps", "celery-worker")
    tasks = stack.enqueue_work(user, seconds=0.5, count=60)
    workers = {wait_for_task(user, task)["result"] for task in tasks}
    assert len(workers) == 3
    stack.up("--scale=celery-worker=1", "--no-recreate", "--no-deps", "celery-worker")


@on_one
def test_two_beats_run_the_schedule_once(stack: ComposeStack) -> None:
    stack.up("--scale=celery-beat=2", "--no-recreate", "--no-deps", "celery-beat")
    seconds: list[float] = stack.python(
        "import time\n"
        "from sqlalchemy import select\n"
        "from app.core.database import session_scope\n"
        "from app.jobs import Job\n"
        "time.sleep(8)\n"
        "with session_scope() as session:\n"
        "    query = select(Job.created_at).where(Job.schedule == 'probe')\n"
        "    newest = query.order_by(Job.created_at.desc()).limit(8)\n"
        "    answer = [created.timestamp() for created in session.scalars(newest)]"
    )
    gaps = [later - earlier for later, earlier in zip(seconds, seconds[1:], strict=False)]
    assert len(gaps) == 7
    assert min(gaps) > 0.5, gaps  # the entry is due every second
    assert max(gaps) < 3, gaps
    stack.up("--scale=celery-beat=1", "--no-recreate", "--no-deps", "celery-beat")


@on_one
def test_processes_that_end_are_started_again(stack: ComposeStack) -> None:
    services = ("app", "celery-worker", "celery-beat", "flower")
    for service in services:
        stack.execute(service, "python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
    wait_until(lambda: all(container["RestartCount"] for container in stack.running(*services)), 60)
    stack.wait_for_health("healthy", *services)


@on_one
def test_workers_and_beat_without_redis_are_unhealthy(stack: ComposeStack) -> None:
    services = ("celery-worker", "celery-beat")
    stack.compose("stop", "redis")
    stack.wait_for_health("unhealthy", *services, seconds=150)
    assert stack.health("app") == "healthy"
    stack.compose("start", "redis")
    stack.wait_for_health("healthy", "redis", *services)


@on("mysql")
def test_the_database_may_be_down_for_a_while(stack: ComposeStack) -> None:
    user = stack.log_in()
    stack.compose("stop", "db")
    wait_until(lambda: user.get("/health/ready").status_code == 503, 20)
    assert user.get("/health/live").status_code == 200
    stack.compose("start", "db")
    stack.wait_for_health("healthy", "db")
    wait_until(lambda: user.get("/health/ready").status_code == 200, 60)
    queued = user.post("/notify?user_id=1&message=hello")
    assert wait_for_task(user, queued.json()["task_id"])["status"] == "SUCCESS"
    assert {container["RestartCount"] for container in stack.running("app", "celery-worker")} == {0}


@on("without_redis")
def test_caddy_serves_the_api_over_https(stack: ComposeStack) -> None:
    if "caddy:2" not in stack.run("docker", "images", "--format={{.Repository}}:{{.Tag}}"):
        stack.run("docker", "pull", "--quiet", "caddy:2", check=False)
        dockerfile = Path(__file__).with_name("caddy.Dockerfile")
        if not stack.run("docker", "images", "--quiet", "caddy:2"):
            stack.run("docker", "build", "-q", "-t", "caddy:2", "-", input=dockerfile.read_text())
    with stack.extended("docker-compose.edge.yml", DOMAIN="localhost"):
        stack.up()
        assert not stack.config()["services"]["app"].get("ports")
        authority = "/data/caddy/pki/authorities/local/root.crt"
        context = ssl.create_default_context(cadata=stack.execute("caddy", "cat", authority))
        port = stack.address("caddy", 443).rpartition(":")[2]
        with httpx.Client(base_url=f"https://localhost:{port}", verify=context) as client:
            live = client.get("/health/live")
            assert live.status_code == 200
            assert live.headers["strict-transport-security"]
            assert live.headers["x-content-type-options"] == "nosniff"
            assert "caddy" not in live.headers.get("server", "").lower()

            def status_of_large_body() -> int | None:
                # The connection is closed while the body is still being sent, which may cut the
                # answer off.
                register, body = "/auth/register", b"x" * 2_000_000
                with (
                    suppress(httpx.TransportError),
                    client.stream("POST", register, content=body) as response,
                ):
                    return response.status_code
                return None

            wait_until(lambda: status_of_large_body() == 413, message="never 413")
        plain = httpx.get(f"http://{stack.address('caddy', 80)}/", headers={"Host": "localhost"})
        assert plain.status_code == 308


@on("postgresql")
def test_prometheus_reads_metrics_and_rules(stack: ComposeStack) -> None:
    stack.set(METRICS_TOKEN=token_hex(32))
    stack.follow("docs/monitoring.md", "--profile monitoring")
    address = f"http://{stack.address('prometheus', 9090)}/api/v1"

    def is_up() -> bool:
        result = httpx.get(f"{address}/query", params={"query": "up"}).json()["data"]["result"]
        return [sample["value"][1] for sample in result] == ["1"]

    wait_until(is_up, 60, "Prometheus cannot read the metrics")
    groups = httpx.get(f"{address}/rules").json()["data"]["groups"]
    assert sum(len(group["rules"]) for group in groups) > 3
    stack.compose("--profile=monitoring", "rm", "--stop", "--force", "prometheus")


@with_celery
def test_data_outlive_the_containers(stack: ComposeStack) -> None:
    user = stack.log_in("keeper@example.com")
    me = user.get("/users/me").json()
    assert "app-1" in stack.follow("docs/deployment.md", "docker compose down")
    assert not stack.containers()
    stack.up()
    user.base_url = stack.api().base_url  # another free port
    assert user.get("/users/me").json() == me
