"""The first week of a new owner: what the README and AGENTS.md say, done in one project."""

import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import Bake
from tests.harness import (
    BOOLEANS,
    DATABASES,
    Stack,
    code_blocks,
    find_program,
    free_port,
    install,
    log_in,
    project_environment,
    run,
    run_suite,
    uv,
    wait_for_task,
    wait_until,
)

GIT = ("git", "-c", "user.name=Owner", "-c", "user.email=owner@example.com")
NOTES = """
from sqlalchemy import func, select
from app.core.database import session_scope
from app.models.note import Note
from app.models.user import User

with session_scope() as session:
    if not session.scalar(select(func.count()).select_from(Note)):
        session.add(Note(user_id=session.scalars(select(User.id)).first(), text="kept"))
    session.flush()
    print(*session.scalars(select(Note.text)), *session.scalars(select(User.email)))
"""


# Lines that other tests run: follow_readme, migrate and variables below, test_processes.py,
# test_suites.py, test_names.py and tests/docker.
ELSEWHERE = re.compile(
    r"-m dev|TOKEN|curl|python3 -c|users create|alembic revision|uvicorn|celery -A|pytest|sudo"
    r"|docker|age-keygen"
)
# A job that has failed.
JOB = """
from app.core.database import session_scope
from app.jobs import enqueue
from app.tasks.example_task import send_notification

with session_scope() as session:
    job = enqueue(session, send_notification, user_id=1, message="hello")
    session.flush()
    job.status = "FAILURE"
    print(job.id)
"""


def commit(project: Path, message: str) -> None:
    """Commit everything that git does not ignore."""
    run(*GIT, "add", "--all", cwd=project)
    run(*GIT, "commit", "--quiet", "--message", message, cwd=project)


def replace(path: Path, pattern: str, new: str) -> None:
    """Replace the only text that matches a pattern."""
    text, count = re.subn(pattern, lambda match: match.expand(new), path.read_text(), flags=re.M)
    assert count == 1, f"{path}: {count} times {pattern!r}"
    path.write_text(text)


def runs(process: psutil.Process) -> bool:
    """Return whether a process has not ended. One that nobody has waited for yet has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def development(project: Path, log: Path, **environment: str) -> Iterator[None]:
    """Run ``python -m dev``; end it with Ctrl-C, after which nothing of it runs."""
    with log.open("wb") as output:
        process = psutil.Popen(
            [project / ".venv/bin/python", "-m", "dev"],
            cwd=project,
            env=project_environment(project, **environment),
            stdout=output,
            stderr=output,
        )
    family: list[psutil.Process] = []
    try:
        yield
        family = process.children(recursive=True)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGINT)
        process.wait(60)
        wait_until(lambda: not any(map(runs, family)), 15, f"dev has left processes: {family}")
    finally:
        for child in [process, *family]:
            if runs(child):
                child.kill()


def answers_ok(url: str) -> bool:
    """Return whether a page can be read."""
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def follow_readme(project: Path, log: Path, port: int) -> None:
    """Start everything without a redis-server, take the tour, and queue a job."""
    empty = log.with_suffix(".bin")
    empty.mkdir()
    environment = {"PATH": f"{project}/.venv/bin:{empty}", "PORT": str(port)}
    environment["FLOWER_PORT"] = str(free_port())
    base = f"http://localhost:{port}"
    with development(project, log, **environment):
        wait_until(lambda: answers_ok(f"{base}/health/ready"), 180, log.read_text())
        blocks = code_blocks((project / "README.md").read_text())
        tour = next(block for block in blocks if "TOKEN=" in block)
        shown = run(
            "bash", "-euc", tour.replace("localhost:8000", f"localhost:{port}"), cwd=project
        )
        assert "me@example.com" in shown
        client = log_in(httpx.Client(base_url=base, timeout=30))
        if not (project / "app/jobs").exists():
            return
        assert '"task_id"' in shown
        response = client.post("/notify", params={"user_id": 1, "message": "hello"})
        assert wait_for_task(client, response.json()["task_id"])["status"] == "SUCCESS"
    assert "Traceback" not in log.read_text()


def migrate(project: Path, message: str) -> str:
    """Write a migration of what has changed, apply it, go back and forth; return its text."""
    run("alembic", "revision", "--autogenerate", "-m", message, cwd=project)
    [migration] = (project / "migrations/versions").glob(f"*_{message}.py")
    for command in ("upgrade head", "downgrade -1", "upgrade head"):
        run("alembic", *command.split(), cwd=project)
    return migration.read_text()


def follow_page(path: Path, **environment: str) -> None:
    """Run every command block of a page, with the names of a job and a backup that exist."""
    project = path.parent if (path.parent / "app").exists() else path.parent.parent
    page = path.read_text().replace("app.backup restore", "app.backup restore --yes")
    if "app.jobs show" in page:
        job = run("python", "-c", JOB, cwd=project).split()[0]
        page = re.sub(r"[0-9a-f]{8}-[-0-9a-f]{27}", job, page)
    env = project_environment(project, **environment)
    for block in code_blocks(page):
        lines = [line for line in block.splitlines() if not ELSEWHERE.search(line)]
        commands = "\n".join(lines)
        if "gunzip" in commands or "age -d" in commands:
            newest = max(project.glob("backups/database/*.gz")).name
            commands = re.sub(r"\w+_backup_\w+\.\w+\.gz", newest, commands)
            for file in project.glob(f"backups/*/{newest}*"):
                shutil.copy(file, project)
        run("bash", "-euc", commands, cwd=project, env=env)


def variables(project: Path, stack: Stack) -> dict[str, str]:
    """Return what the database's programs need, and what encrypts copies of backups."""
    (stack.folder / "my.cnf").write_text(
        f"[client]\nhost=127.0.0.1\nport={stack.database_port}\nuser=app\npassword=secret\n"
    )
    store = project / "backups/copies"
    store.mkdir(parents=True)
    blocks = code_blocks((project / "docs/backups.md").read_text())
    [keygen] = [line for block in blocks for line in block.splitlines() if "age-keygen" in line]
    run("bash", "-euc", keygen, cwd=project)
    return {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(stack.database_port),
        "PGUSER": "app",
        "MYSQL_HOME": str(stack.folder),
        "BACKUP_COPY_URL": f"file://{store}",
        "BACKUP_AGE_RECIPIENTS": run("age-keygen", "-y", "backup-key.txt", cwd=project).strip(),
    }


def apply_recipes(project: Path) -> None:
    """Follow the recipes of AGENTS.md."""
    blocks = code_blocks((project / "AGENTS.md").read_text(), "python")
    files = {}
    for block in blocks:
        if match := re.match(r"# ((?:app|tests)/\S+)\n", block):
            files[match[1]] = block[match.end() :]
    setting = next(block for block in blocks if "Field(" in block)
    entry = next(block for block in blocks if "crontab(" in block)

    (project / "app/models/note.py").write_text(files.pop("app/models/note.py"))
    assert 'op.create_table(\n        "notes"' in migrate(project, "notes")
    for path, text in files.items():
        (project / path).write_text(text)
    routes = project / "app/api/routes/__init__.py"
    replace(routes, r"^(from app\.api\.routes import .*?\bauth, )", r"\1notes, ")
    with routes.open("a") as file:
        file.write("api_router.include_router(notes.router)\n")
    replace(project / "app/core/celery.py", r"(beat_schedule = \{\n)", rf"\1{entry}")
    replace(project / "app/core/config/settings.py", r"^    SENTRY_DSN:", rf"{setting}\g<0>")
    with (project / ".env.example").open("a") as file:
        file.write("MAX_NOTES=100\n")
    run(uv(), "add", "--quiet", "humanize", cwd=project)


@pytest.mark.parametrize("database", DATABASES)
def test_first_week_of_an_owner(bake: Bake, database: str, tmp_path: Path) -> None:
    for program in ("git", "curl", "age"):
        find_program(program, install=f"apt install {program}")
    project = bake(database=database)
    install(project)
    run(*GIT, "init", "--quiet", cwd=project)
    commit(project, "Generated")

    with Stack(project, tmp_path / "stack", servers=database != "sqlite") as stack:
        # What follows reads its settings from .env, as the owner's commands do.
        redis = f"redis://localhost:{free_port()}"
        values = {
            "DATABASE_URL": stack.environment["DATABASE_URL"],
            "REDIS_URL": f"{redis}/0",
            "CELERY_BROKER_URL": f"{redis}/1",
            "CELERY_RESULT_BACKEND": f"{redis}/2",
        }
        for name, value in values.items():
            replace(project / ".env", rf"^{name}=.*$", f"{name}={value}")
        follow_readme(project, tmp_path / "dev.log", free_port())

        # The recipes, and a second migration, with rows in the tables.
        apply_recipes(project)
        assert run("python", "-c", NOTES, cwd=project).split()[0] == "kept"
        replace(project / "app/models/user.py", r"(    email: .*String\()\d+", r"\g<1>400")
        migrate(project, "email")
        assert {"kept", "me@example.com"} <= {*run("python", "-c", NOTES, cwd=project).split()}
        follow_page(project / "AGENTS.md")
        # All of it once: test_suites.py proves the rest on each database.
        changed = ("migrations", "notes", "settings", "tasks")
        run_suite(project, *(f"tests/test_{name}.py" for name in changed if database != "sqlite"))
        commit(project, "Notes")

        # What the other pages say, such as a backup and a restore.
        environment = variables(project, stack)
        for page in (project / "README.md", *sorted(project.glob("docs/*.md"))):
            follow_page(page, **environment)
        assert run("python", "-c", NOTES, cwd=project).split()[0] == "kept"
        run(*GIT, "clean", "--quiet", "--force", cwd=project)
        assert run(*GIT, "status", "--porcelain", cwd=project) == ""

        # A colleague's clone has no .env: one line says so.
        clone = tmp_path / "clone"
        run(*GIT, "clone", "--quiet", project, clone, cwd=tmp_path)
        (clone / ".venv").symlink_to(project / ".venv")
        with pytest.raises(AssertionError, match=r"There is no \.env: "):
            run("python", "-m", "dev", cwd=clone)


def test_smallest_project_is_what_its_pages_say(bake: Bake, tmp_path: Path) -> None:
    project = bake(**dict.fromkeys(BOOLEANS, False))
    install(project)
    follow_readme(project, tmp_path / "dev.log", free_port())
    for page in ("AGENTS.md", "README.md", "docs/troubleshooting.md"):
        follow_page(project / page)


def test_second_project_has_names_of_its_own(bake: Bake) -> None:
    for database in DATABASES:
        settings = [
            dict(re.findall(r"^(\w+)=(.*)$", (project / ".env").read_text(), re.MULTILINE))
            for project in (bake(database=database), bake(database=database, project_slug="shop"))
        ]
        for name in ("DATABASE_URL", "REDIS_KEY_PREFIX", "SECRET_KEY"):
            assert settings[0][name] != settings[1][name]
