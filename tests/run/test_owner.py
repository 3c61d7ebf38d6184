"""The first week of a new owner: what the README and AGENTS.md say, done in one project."""

import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import Bake
from tests.harness import (
    Stack,
    find_program,
    free_port,
    generate,
    install,
    listens,
    log_in,
    project_environment,
    run,
    run_suite,
    uv,
    wait_for_task,
    wait_until,
)

GIT = ("git", "-c", "user.name=Owner", "-c", "user.email=owner@example.com")
LINTERS = (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",))
# The tests that the owner's own code can break.
QUICK_TESTS = ("tests/test_migrations.py", "tests/test_settings.py", "tests/test_celery.py")


def code_blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a Markdown page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commit(project: Path, message: str) -> None:
    """Commit everything that git does not ignore."""
    run(*GIT, "add", "--all", cwd=project)
    run(*GIT, "commit", "--quiet", "--message", message, cwd=project)


def check(project: Path, *tests: str) -> None:
    """Assert that the linters find nothing and that the tests pass."""
    for linter in LINTERS:
        run(project / ".venv/bin" / linter[0], *linter[1:], cwd=project)
    run_suite(project, *tests)


def fail(project: Path, *command: str, cwd: Path | None = None, **environment: str) -> str:
    """Run a command of the project that must fail and return its message, which is one line."""
    result = subprocess.run(
        [project / ".venv/bin" / command[0], *command[1:]],
        cwd=cwd or project,
        env=project_environment(project, **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0, command
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, f"{command}:\n{result.stderr}"
    return lines[0]


@contextmanager
def development(project: Path, log: Path, **environment: str) -> Iterator[psutil.Process]:
    """Run ``python -m dev`` from when it has printed the addresses; end it with Ctrl-C."""
    with log.open("wb") as output:
        process = psutil.Popen(
            [project / ".venv/bin/python", "-m", "dev"],
            cwd=project,
            env=project_environment(project, **environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    children: list[psutil.Process] = []
    try:

        def started() -> bool:
            assert process.poll() is None, log.read_text()
            return "/docs\n" in log.read_text()

        wait_until(started, 180, "python -m dev has not started")
        yield process
        children = process.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
        assert not [child for child in children if child.is_running()]
    finally:
        for child in [process, *children]:
            if child.is_running():
                child.kill()


def notify(client: httpx.Client) -> None:
    """Queue a notification and wait until it is sent."""
    response = client.post("/notify", params={"user_id": 1, "message": "hello"})
    state = wait_for_task(client, response.json()["task_id"])
    assert state["status"] == "SUCCESS"


def apply_recipes(project: Path) -> Iterator[str]:
    """Follow the recipes of AGENTS.md, and yield the name of each when it is done."""
    files = {}
    for block in code_blocks(project / "AGENTS.md", "python"):
        if match := re.match(r"# (app/\S+)\n", block):
            files[match[1]] = block[match.end() :]
    entry = next(b for b in code_blocks(project / "AGENTS.md", "python") if "crontab(" in b)
    setting = next(b for b in code_blocks(project / "AGENTS.md", "python") if "Field(" in b)

    def write(path: str) -> None:
        (project / path).write_text(files.pop(path))

    def replace(path: str, old: str, new: str) -> None:
        text = (project / path).read_text()
        assert old in text
        (project / path).write_text(text.replace(old, new, 1))

    write("app/models/note.py")
    run("alembic", "revision", "--autogenerate", "-m", "notes", cwd=project)
    (migration,) = (project / "migrations/versions").glob("*_notes.py")
    assert 'op.create_table(\n        "notes"' in migration.read_text()
    run("alembic", "upgrade", "head", cwd=project)
    yield "a model and its migration"

    write("app/api/routes/notes.py")
    routes = "app/api/routes/__init__.py"
    replace(routes, "import auth, ", "import auth, notes, ")
    with (project / routes).open("a") as file:
        file.write("api_router.include_router(notes.router)\n")
    run("ruff", "check", "--fix", "--quiet", cwd=project)
    yield "a route"

    write("app/tasks/notes.py")
    yield "a task"

    replace("app/core/celery.py", "beat_schedule = {\n", "beat_schedule = {\n" + entry)
    yield "a schedule entry"

    with (project / "app/core/config/app.py").open("a") as file:
        file.write("\n" + setting)
    with (project / ".env.example").open("a") as file:
        file.write("\nMAX_NOTES=100\n")
    yield "a setting"

    run(uv(), "add", "--quiet", "humanize", cwd=project)
    yield "a dependency"
    assert not files, f"recipes that were not followed: {list(files)}"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_first_week_of_an_owner(database: str, tmp_path: Path) -> None:
    for program in ("git", "curl"):
        find_program(program, install=f"apt install {program}")
    if database == "postgresql":
        find_program("initdb", install="apt install postgresql")
    home = tmp_path / "home"
    home.mkdir()
    output = generate(tmp_path, "--no-input", f"database={database}", home=home)
    assert output.returncode == 0, output.stderr
    project = tmp_path / "my-api"
    install(project)
    run(*GIT, "init", "--quiet", cwd=project)
    commit(project, "Generated")

    with Stack(project, tmp_path / "stack") as stack:
        # What follows reads its settings from .env, as the owner's commands do.
        api, flower = free_port(), free_port()
        redis = f"redis://localhost:{free_port()}"
        values = {
            "DATABASE_URL": stack.environment["DATABASE_URL"],
            "PORT": str(api),
            "FLOWER_PORT": str(flower),
            "REDIS_URL": f"{redis}/0",
            "CELERY_BROKER_URL": f"{redis}/1",
            "CELERY_RESULT_BACKEND": f"{redis}/2",
        }
        env = (project / ".env").read_text()
        for name, value in values.items():
            env, count = re.subn(rf"^{name}=.*$", f"{name}={value}", env, flags=re.MULTILINE)
            assert count == 1, name
        (project / ".env").write_text(env)

        # Start, without a redis-server, and follow the README.
        tools = tmp_path / "bin"
        tools.mkdir()
        log = tmp_path / "dev.log"
        with development(project, log, PATH=str(tools)) as process:
            assert "fakeredis" in log.read_text()
            tour = next(b for b in code_blocks(project / "README.md", "bash") if "TOKEN=" in b)
            tour = tour.replace("localhost:8000", f"localhost:{api}")
            shown = run("bash", "-euc", tour, cwd=project)
            assert "me@example.com" in shown
            assert '"task_id"' in shown
            client = log_in(httpx.Client(base_url=f"http://localhost:{api}", timeout=30))
            notify(client)

            # A worker that is killed is started again, and so is one whose code has changed.
            def worker() -> psutil.Process:
                return next(p for p in process.children() if "worker" in p.cmdline())

            worker().kill()
            wait_until(lambda: "worker ended with code -9, starting it again" in log.read_text())
            wait_until(lambda: log.read_text().count(" ready.") == 2, 120)
            task = project / "app/tasks/example_task.py"
            task.write_text(task.read_text() + "\n# changed\n")
            wait_until(lambda: "the code has changed" in log.read_text())
            wait_until(lambda: log.read_text().count(" ready.") == 3, 120)
            wait_until(lambda: listens(api))
            notify(client)
        assert "Traceback" not in log.read_text()
        run(*GIT, "checkout", "--quiet", ".", cwd=project)

        # The recipes. The project is green after each.
        for recipe in apply_recipes(project):
            check(project, *QUICK_TESTS)
            commit(project, recipe)

        # A backup, and a restore.
        run("python", "-m", "app.backup", "create", cwd=project)
        run("python", "-m", "app.backup", "verify", cwd=project)
        run("python", "-m", "app.backup", "restore", "--yes", cwd=project)
        check(project)
        assert run(*GIT, "status", "--porcelain", cwd=project) == ""

        # A colleague's clone has no .env.
        clone = tmp_path / "clone"
        run(*GIT, "clone", "--quiet", project, clone, cwd=tmp_path)
        shutil.copytree(project / ".venv", clone / ".venv", symlinks=True)
        for command in (("python", "-m", "dev"), ("celery", "-A", "app.core.celery", "worker")):
            assert "create one with python -m dev.env" in fail(clone, *command)
        terminal, stdin = pty.openpty()
        os.write(terminal, b"y\n")
        subprocess.run(
            [clone / ".venv/bin/python", "-m", "dev"],
            cwd=clone,
            env=project_environment(clone, **values | {"DATABASE_URL": "nonsense"}),
            stdin=stdin,
            check=False,
        )
        os.close(terminal)
        os.close(stdin)
        assert (clone / ".env").stat().st_mode & 0o777 == 0o600
        assert "exists already" in fail(clone, "python", "-m", "dev.env")
        assert run("python", "-m", "alembic", "current", "--check-heads", cwd=project)


STARTS = (
    ("python", "-m", "dev"),
    ("alembic", "upgrade", "head"),
    ("uvicorn", "app.main:app"),
    ("celery", "-A", "app.core.celery.celery_app", "worker"),
    ("celery", "-A", "app.core.celery.celery_app", "beat"),
)


@pytest.mark.parametrize("command", STARTS, ids=" ".join)
def test_mistake_in_env_file_stops_the_start(installed: Bake, command: tuple[str, ...]) -> None:
    project = installed(database="sqlite")
    env = project / ".env"
    text = env.read_text()
    try:
        for line, message in (
            ("LOG_LEVLE=INFO", "LOG_LEVLE is not a setting, did you mean LOG_LEVEL?"),
            ("LOG_LEVEL INFO", "must be NAME=value"),
        ):
            env.write_text(f"{line}\n{text}")
            assert fail(project, *command) == f".env, line 1: {message}"
    finally:
        env.write_text(text)


def test_second_project_has_names_of_its_own(bake: Bake) -> None:
    for database in ("sqlite", "postgresql", "mysql"):
        settings = [
            dict(re.findall(r"^(\w+)=(.*)$", (project / ".env").read_text(), re.MULTILINE))
            for project in (bake(database=database), bake(database=database, project_slug="shop"))
        ]
        for name in ("DATABASE_URL", "REDIS_KEY_PREFIX", "SECRET_KEY"):
            assert settings[0][name] != settings[1][name]
