"""The Compose stack, built and run: what it promises, it does.

One stack for each database and for each answer that takes services away; all checks of a stack
share it, and it is torn down at the end. Run one with -k postgresql.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from dotenv import dotenv_values

from tests.conftest import Bake
from tests.docker.stack import ComposeStack, require_docker
from tests.harness import Answers, wait_for_task, wait_until

STACKS: dict[str, Answers] = {
    "postgresql": {"database": "postgresql", "python_version": "3.13"},
    "mysql": {"database": "mysql", "python_version": "3.12"},
    "sqlite": {"database": "sqlite", "python_version": "3.14"},
    "without_celery": {"database": "postgresql", "use_celery": False},
    "without_redis": {"database": "sqlite", "use_celery": False, "use_redis": False},
}


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these stacks, each stack by one worker.

    Name them as STACKS begins: pytest groups the tests of a stack by its place in the list.
    """
    assert list(names) == list(STACKS)[: len(names)]
    params = [pytest.param(name, marks=pytest.mark.xdist_group(f"stack-{name}")) for name in names]
    return pytest.mark.parametrize("stack", params, indirect=True, scope="module")


on_all = on(*STACKS)
with_celery = on("postgresql", "mysql", "sqlite")
# What would tell nothing new on another one.
on_one = on("postgresql")


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComposeStack]:
    """A stack that is up and healthy."""
    require_docker()
    project = bake(project_name=f"Stack {request.param}", **STACKS[request.param])
    stack = ComposeStack(project, tmp_path_factory.mktemp("stack"))
    try:
        stack.up("--build")
        yield stack
    finally:
        stack.end()


@on_all
def test_every_service_is_healthy(stack: ComposeStack) -> None:
    states = {c["Service"]: (c["State"], c["Health"], c["ExitCode"]) for c in stack.containers()}
    assert states.pop("db-migrate") == ("exited", "", 0)
    assert states == {
        name: ("running", "healthy", 0) for name in stack.services if name != "db-migrate"
    }


@on_all
def test_nobody_runs_as_root(stack: ComposeStack) -> None:
    for container in stack.containers():
        if container["State"] == "running":
            lines = stack.run("docker", "top", container["ID"], "-eo", "uid,pid").splitlines()[1:]
            assert lines
            assert "0" not in {line.split()[0] for line in lines}, container["Service"]


@on_all
def test_the_image_holds_no_secret_and_no_compiler(stack: ComposeStack) -> None:
    image = stack.config()["services"]["app"]["image"]
    history = stack.run("docker", "history", "--no-trunc", image)
    settings = stack.run("docker", "inspect", image)
    look = "find / -xdev -name '.env*' -o -xdev -name uv -type f; command -v gcc cc uv || true"
    # As root: nothing is hidden from it.
    found = stack.run("docker", "run", "--rm", "--user=0", image, "sh", "-c", look)
    assert not found
    for name, secret in stack.secrets.items():
        assert secret not in history, name
        assert secret not in settings, name


@on("postgresql", "mysql")
def test_the_dump_client_is_of_the_server_s_version(stack: ComposeStack) -> None:
    number = re.compile(r"\d+\.\d+\S*")
    if "postgres" in stack.config()["services"]["db"]["image"]:
        pairs = [("pg_dump", "postgres"), ("psql", "postgres")]
    else:
        pairs = [("mysqldump", "mysqld"), ("mysql", "mysqld")]
    for client, server in pairs:
        ours = number.search(stack.execute("app", client, "--version"))
        theirs = number.search(stack.execute("db", server, "--version"))
        assert ours
        assert theirs
        assert ours[0] == theirs[0]


@on_all
def test_the_api_talks(stack: ComposeStack) -> None:
    api = stack.api()
    body = {"email": "first@example.com", "password": "correct horse battery staple"}
    assert api.post("/auth/register", json=body).status_code == 201
    assert api.post("/auth/register", json=body).status_code == 409
    assert api.get("/users/me").status_code == 401
    user = stack.log_in("first@example.com")
    assert user.get("/users/me").json()["email"] == "first@example.com"
    ready = api.get("/health/ready")
    assert ready.status_code == 200
    assert set(ready.json()["dependencies"].values()) == {"ok"}


@with_celery
def test_a_notification_is_queued_and_sent(stack: ComposeStack) -> None:
    first, second = stack.log_in("first@example.com"), stack.log_in("second@example.com")
    assert stack.api().post("/notify?user_id=1&message=hi").status_code == 401
    queued = first.post("/notify?user_id=1&message=hi")
    assert queued.status_code == 202
    assert queued.json()["status"] == "queued"
    task_id = queued.json()["task_id"]
    assert wait_for_task(first, task_id, 20)["result"] == {"status": "sent", "user_id": 1}
    assert stack.api().get(f"/task/{task_id}").status_code == 401
    assert second.get(f"/task/{task_id}").status_code == 404
    assert first.get("/task/no-such-task").status_code == 404


@with_celery
def test_flower_asks_for_a_password_and_has_metrics(stack: ComposeStack) -> None:
    url = f"http://{stack.address('flower', 5555)}"
    secret = dotenv_values(stack.folder / ".env")["FLOWER_PASSWORD"]

    def status(path: str, *user: str) -> str:
        return stack.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *user, url + path)

    assert status("/workers") == "401"
    assert status("/api/workers") == "401"
    assert status("/workers", "--user", "admin:wrong") == "401"
    assert status("/workers", "--user", f"admin:{secret}") == "200"
    assert "flower_events_total" in stack.run("curl", "-s", f"{url}/metrics")


@on("postgresql", "mysql", "sqlite", "without_celery")
def test_redis_wants_its_password_and_keeps_what_it_has(stack: ComposeStack) -> None:
    refused = stack.execute("redis", "sh", "-c", "REDISCLI_AUTH= redis-cli ping 2>&1", check=False)
    assert "NOAUTH" in refused
    config = stack.redis("CONFIG", "GET", "maxmemory-policy") + stack.redis(
        "CONFIG", "GET", "appendonly"
    )
    assert config == ["maxmemory-policy", "noeviction", "appendonly", "yes"]
    for container in stack.containers("redis"):
        commands = stack.run("docker", "top", container["ID"], "-eo", "pid,args")
        assert dotenv_values(stack.folder / ".env")["REDIS_PASSWORD"] not in commands


@on_one
def test_sigterm_lets_a_running_task_finish(stack: ComposeStack) -> None:
    [task] = stack.queue_work(1, 5)
    wait_until(lambda: task in stack.redis("LRANGE", "probe:started", "0", "-1"), 20)
    stack.compose("stop", "celery-worker")
    [(status, _)] = stack.results([task])
    assert status == "SUCCESS"
    [container] = stack.containers("celery-worker")
    assert container["ExitCode"] != 137  # it was not killed
    stack.compose("start", "celery-worker")
    wait_until(lambda: stack.health("celery-worker") == "healthy", 60)


@on_one
def test_a_worker_serves_every_queue(stack: ComposeStack) -> None:
    code = """
from app.core.celery import celery_app
[queues] = celery_app.control.inspect().active_queues().values()
answer = sorted(queue["name"] for queue in queues)
"""
    assert stack.python(code) == ["backup", "celery"]


@on("postgresql", "mysql")
def test_the_database_may_go_away(stack: ComposeStack) -> None:
    user = stack.log_in("first@example.com")
    stack.compose("stop", "db")
    wait_until(lambda: user.get("/health/ready").status_code == 503, 20)
    assert user.get("/health/ready").json()["dependencies"]["database"] == "down"
    assert user.get("/health/live").status_code == 200
    task = stack.python(
        "from app.tasks.example_task import process_user_data\n"
        "answer = process_user_data.delay(1).id"
    )
    wait_until(lambda: stack.results([task])[0][0] == "RETRY", 20)
    stack.compose("start", "db")
    wait_until(lambda: user.get("/health/ready").status_code == 200, 30)
    wait_until(lambda: stack.results([task])[0][0] == "SUCCESS", 60, every=1)
    assert user.get("/users/me").status_code == 200
    starts = {
        c["Service"]: stack.run("docker", "inspect", "-f", "{{.RestartCount}}", c["ID"])
        for c in stack.containers("app", "celery-worker")
    }
    assert set(starts.values()) == {"0\n"}


@on_all
def test_a_backup_is_made_verified_and_restored(stack: ComposeStack) -> None:
    kept = stack.log_in("kept@example.com")
    made = json.loads(backup(stack, "create", "--json"))
    assert made["path"].startswith("/backups/")
    listed = json.loads(backup(stack, "list", "--json"))
    assert [one["file"] for one in listed] == [made["path"].removeprefix("/backups/")]
    backup(stack, "verify", made["path"])
    lost = stack.log_in("lost@example.com")
    backup(stack, "restore", made["path"], "--yes")
    # The API that runs all the while sees the database of before.
    assert kept.get("/users/me").status_code == 200
    assert lost.get("/users/me").status_code == 401
    assert kept.get("/health/ready").status_code == 200


@with_celery
def test_the_backup_task_has_a_queue_of_its_own(stack: ComposeStack) -> None:
    code = """
from app.core.celery import celery_app
from app.tasks.backup_database_task import backup_database_task
router = celery_app.amqp.router
answer = [
    backup_database_task.delay(retention_days=30).id,
    router.route({}, backup_database_task.name)["queue"].name,
    router.route({}, "app.tasks.example_task.send_notification")["queue"].name,
]
"""
    task, queue, other = stack.python(code)
    assert (queue, other) == ("backup", "celery")
    wait_until(lambda: stack.results([task])[0][0] == "SUCCESS", 60)
    files = [one["file"] for one in json.loads(backup(stack, "list", "--json"))]
    assert len(files) == 2, files


def backup(stack: ComposeStack, *arguments: str) -> str:
    """Run the backup command in the API's container."""
    return stack.execute("app", "python", "-m", "app.backup", *arguments)


@on_all
def test_data_outlives_the_containers(stack: ComposeStack) -> None:
    user = stack.log_in("keeper@example.com")
    me = user.get("/users/me").json()
    stack.compose("down", "--timeout=20")
    assert not stack.containers()
    stack.up()
    # The token is still good too: the secret has not changed.
    user.base_url = stack.api().base_url  # another free port
    assert user.get("/users/me").json() == me


@on_one
def test_three_workers_share_the_work_and_one_may_be_killed(stack: ComposeStack) -> None:
    stack.up("--scale=celery-worker=3", "--no-recreate", "--no-deps", "celery-worker")
    workers = stack.containers("celery-worker")
    assert len(workers) == 3
    tasks = stack.queue_work(300, 0.3)
    wait_until(lambda: int(stack.redis("LLEN", "probe:done")[0]) > 60, 30)
    stack.run("docker", "kill", "--signal=KILL", workers[0]["ID"])
    wait_until(lambda: {s for s, _ in stack.results(tasks)} == {"SUCCESS"}, 150, every=2)
    shares = Counter(host for _, host in stack.results(tasks))
    assert len(shares) == 3
    stack.up("--scale=celery-worker=1", "--no-recreate", "--no-deps", "celery-worker")


@on_one
def test_redis_restarting_loses_nothing_that_was_accepted(stack: ComposeStack) -> None:
    user = stack.log_in("first@example.com")
    accepted: list[str] = []
    refused = 0
    done = threading.Event()

    def send() -> None:
        nonlocal refused
        while not done.is_set():
            answer = user.post("/notify?user_id=1&message=hi")
            if answer.status_code == 202:
                accepted.append(answer.json()["task_id"])
            else:
                assert answer.status_code == 503, answer
                refused += 1

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 50, 30)
    stack.compose("restart", "redis")
    before = len(accepted)
    wait_until(lambda: len(accepted) > before + 50, 60)
    done.set()
    for thread in threads:
        thread.join()
    wait_until(lambda: {s for s, _ in stack.results(accepted)} == {"SUCCESS"}, 60, every=1)


@on_one
def test_two_beats_run_the_schedule_once(stack: ComposeStack) -> None:
    stack.compose("up", "-d", "--no-deps", "--no-recreate", "--scale=celery-beat=2", "celery-beat")
    assert len(stack.containers("celery-beat")) == 2
    stack.redis("DEL", "probe:ticks")
    wait_until(lambda: int(stack.redis("LLEN", "probe:ticks")[0]) >= 8, 40)
    ticks = sorted(map(float, stack.redis("LRANGE", "probe:ticks", "0", "-1")))
    gaps = [later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)]
    assert min(gaps) > 0.5, gaps  # it is due every second
    stack.compose("up", "-d", "--no-deps", "--no-recreate", "--scale=celery-beat=1", "celery-beat")
    # Whichever of the two is left has the lock now, or takes it.
    wait_until(lambda: stack.health("celery-beat") == "healthy", 30)


@on_one
def test_a_stuck_worker_and_a_stuck_beat_are_noticed(stack: ComposeStack) -> None:
    services = ("celery-worker", "celery-beat")
    stack.compose("kill", "--signal=STOP", *services)
    for service in services:
        wait_until(lambda s=service: stack.health(s) == "unhealthy", 60, every=1)
    assert stack.health("app") == "healthy"
    stack.compose("kill", *services)
    stack.compose("start", *services)
    for service in services:
        wait_until(lambda s=service: stack.health(s) == "healthy", 60, every=1)


@on_one
def test_a_worker_and_a_beat_without_redis_are_noticed(stack: ComposeStack) -> None:
    services = ("celery-worker", "celery-beat")
    stack.compose("stop", "redis")
    for service in services:
        wait_until(lambda s=service: stack.health(s) != "healthy", 75, every=1)
    assert stack.health("app") == "healthy"
    stack.compose("start", "redis")
    for service in services:
        wait_until(lambda s=service: stack.health(s) == "healthy", 75, every=1)
