"""Workers: other pools, what is refused at start, options, URLs, malformed messages, neighbours."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness import FULL, project_environment, wait_until
from tests.run.jobs.envelopes import malformed
from tests.run.jobs.faults import Faults, bake_faults

OPTIONS = ("--without-mingle", "--without-gossip")
SHORT = {"CELERY_TASK_SOFT_TIME_LIMIT": "2", "CELERY_TASK_TIME_LIMIT": "3"}


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_long_job_in_another_pool_runs_once(stack: Faults, pool: str) -> None:
    stack.start_worker("worker", f"--pool={pool}", **SHORT)
    stack.wait_for_log("worker", "only the pool prefork has time limits")
    stack.start_beat(**SHORT)
    job = stack.add("hold", key="a")
    stack.started("a")
    stack.ask(f"age({job!r}, 3600, 3600)")
    assert stack.row(job)["deadline"] is None
    other = stack.add("nap", key="b", countdown=6)
    wait_until(lambda: stack.row(other)["resend_after"])  # Beat has looked at both.
    stack.release("a")
    assert stack.ends(job)["attempts"] == 1
    stack.ends(other)


BAD_TASKS = {
    "base=celery.Task": "bypasses JobTask",
    "base=WithCall": "bypasses JobTask",
    "priority=3": "has a priority",
    "rate_limit='1/s'": "has a rate_limit",
    "": "is async",
}


@pytest.mark.parametrize(("options", "problem"), BAD_TASKS.items())
def test_task_that_cannot_be_a_job_stops_the_start(
    stack: Faults, options: str, problem: str
) -> None:
    module = stack.project / "app/tasks/bad.py"
    module.write_text(
        "import celery\n\nfrom app.core.celery import celery_app\nfrom app.jobs.task import JobTask\n"
        "class WithCall(JobTask):\n    def __call__(self, *args, **kwargs):\n        return 1\n"
        f"@celery_app.task({options})\n{'' if options else 'async '}def bad(): ...\n"
    )
    try:
        for role in ("worker", "beat"):
            command = [stack.project / ".venv/bin/celery", "-A", "app.core.celery.celery_app", role]
            env = project_environment(stack.project, **stack.environment)
            result = subprocess.run(
                command, cwd=stack.project, env=env, capture_output=True, text=True, timeout=60
            )
            (line,) = (line for line in result.stderr.splitlines() if "app.tasks.bad.bad" in line)
            assert problem in line
            assert result.returncode == 1
            assert "Traceback" not in result.stderr
    finally:
        module.unlink()


def test_files_of_editors_are_no_tasks(stack: Faults) -> None:
    tasks = stack.project / "app/tasks"
    files = [tasks / ".#x.py", tasks / "._x.py", tasks / ".ipynb_checkpoints/x.py"]
    files[2].parent.mkdir()
    files[0].symlink_to("somebody@a.host")
    for path in files[1:]:
        path.write_bytes(b"\x00\x05")
    try:
        stack.start_worker()
        stack.works()
    finally:
        for path in files:
            path.unlink()
        files[2].parent.rmdir()


def test_options_of_logs(stack: Faults) -> None:
    log = stack.folder / "runs.options.log"
    stack.start_worker("worker", "--loglevel=debug", f"--logfile={log}", wait=False)
    wait_until(lambda: log.exists() and " ready." in log.read_text(), 60)
    stack.works()
    assert "[debug" in log.read_text()
    assert "Task app.tasks.fault_tasks.nap" in log.read_text()


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("CELERY_BROKER_URL", "redis+socket://{socket}?virtual_host=1"),
        ("CELERY_RESULT_BACKEND", "redis+socket://{socket}?virtual_host=2"),
        ("REDIS_URL", "unix://{socket}?db=0"),
        ("REDIS_URL", "redis://127.0.0.1:{port}?db=0"),
    ],
)
def test_urls_of_redis_work(stack: Faults, variable: str, url: str) -> None:
    socket = stack.folder / "redis.socket"
    stack.kill("redis")
    stack.redis_options = ["--unixsocket", str(socket)]
    try:
        stack.start_redis()
        changed = {variable: url.format(socket=socket, port=stack.redis_port)}
        stack.start_worker(**changed)
        code = "from app.tasks.fault_tasks import nap; print(nap.delay('a').get(timeout=30))"
        assert stack.python(code, **changed).strip() == "a"
        ping = "from app.core.redis import get_redis; print(get_redis().ping())"
        assert stack.python(ping, **changed).strip() == "True"
    finally:
        stack.redis_options = []


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("CELERY_BROKER_URL", "unix:///tmp/redis.socket"),
        ("CELERY_BROKER_URL", "redis://127.0.0.1/?db=1"),
        ("CELERY_RESULT_BACKEND", "memcached://127.0.0.1"),
        ("REDIS_URL", "redis+socket:///tmp/redis.socket"),
        ("REDIS_URL", "sentinel://127.0.0.1"),
    ],
)
def test_urls_of_redis_that_do_not_work_are_refused(stack: Faults, variable: str, url: str) -> None:
    with pytest.raises(AssertionError) as error:
        stack.run("celery", "-A", "app.core.celery.celery_app", "report", **{variable: url})
    assert variable in str(error.value)
    assert "Traceback" not in str(error.value)


def test_malformed_messages_hold_up_no_job(stack: Faults) -> None:
    """Celery itself ends on some of them: a supervisor starts it again, or they are removed."""
    valid = stack.add("nap", key="valid")
    stack.published(1)
    envelopes = malformed(json.loads(stack.broker.rpop(stack.queue)))
    names = list(envelopes)[:: 1 if FULL else 10]
    jobs = stack.ask(f"add('nap', {len(names)}, key='early', countdown=3600)")
    removed = set()
    stack.start_worker("worker", *OPTIONS)
    for job, name in zip(jobs, names, strict=True):
        stack.broker.lpush(stack.queue, envelopes[name].replace(valid.encode(), job.encode()))
        next_job = stack.add("nap", key=name.replace(" ", "_"))
        begin, ends = time.monotonic(), 0
        while stack.row(next_job)["status"] != "SUCCESS":
            looping = time.monotonic() - begin > 15
            if looping:  # Celery connects to Redis again and again.
                stack.stop("worker", signal.SIGKILL)
            if looping or stack.processes["worker"].poll() is not None:
                ends += 1
                if looping or ends == 2:  # As docs/tasks.md says.
                    assert name not in removed, f"{name}: {stack.log('worker')[-3000:]}"
                    removed.add(name)
                    stack.broker.rpop(stack.queue)
                begin = time.monotonic()
                stack.start_worker("worker", *OPTIONS)
            time.sleep(0.05)
    stack.start_beat()
    stack.ends(valid)
    assert {stack.row(job)["status"] for job in jobs} <= {"PENDING", "SUCCESS"}


def test_two_projects_share_one_redis(stack: Faults, tmp_path: Path) -> None:
    project = bake_faults(tmp_path, "sqlite", slug="other")
    names = ("REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
    redis = {name: stack.environment[name] for name in names}
    with Faults(project, tmp_path / "other", servers=False, **redis) as other:
        both = {"mine": stack, "other": other}
        for name, one in both.items():
            one.start_worker(name, BEAT_EVERY="1")
        stack.start_beat(BEAT_EVERY="1")
        for name, one in both.items():
            one.ask(f"naps(['{name}-%d' % n for n in range(20)])")
            one.ask(f"[nap.delay('{name}-delayed-%d' % n) for n in range(20)] and None")
        for name, one in both.items():
            wait_until(lambda one=one: len(one.runs("end")) >= 40)
            keys = {key for key in one.runs() if key != "tick"}
            assert len(keys) == 40, keys
            assert all(key.startswith(name) for key in keys), keys
        wait_until(lambda: stack.runs()["tick"] >= 2)
        assert other.runs()["tick"] == 0
        for name, one in both.items():
            answer = one.ask("celery_app.control.inspect(timeout=2).ping()")
            assert [node.split("@")[0] for node in answer] == [name], answer
        prefixes = tuple(f"{one.answers['project_slug']}:".encode() for one in both.values())
        for number in range(3):
            stack.redis.select(number)
            keys = stack.redis.keys()
            assert all(key.startswith(prefixes) for key in keys), keys
        stack.redis.select(0)
