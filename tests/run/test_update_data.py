"""Updates and changed answers of projects with data, as docs/updating.md says."""

import json
import re
import textwrap
from pathlib import Path

import httpx
import pytest

from tests.harness import (
    BOOLEANS,
    DATABASES,
    Stack,
    install,
    log_in,
    run,
    run_suite,
    uv,
    wait_for_task,
)
from tests.run.updates import PAGE, Forge, add_own_code, commit, git, page_blocks, solve

TABLES = (
    "from sqlalchemy import inspect; from app.core.database import get_engine;"
    "print(*inspect(get_engine()).get_table_names())"
)
ADD_NOTE = (
    "from app.core.database import session_scope; from app.models.note import Note\n"
    "with session_scope() as session: session.add(Note(user_id=1, text='kept'))"
)
READ_NOTES = "from app.tasks.notes import read_notes; print(read_notes.delay().get(timeout=60))"


def migrate(stack: Stack) -> None:
    """Do what the page says after an update, and what it says of 0.2."""
    known = set(stack.project.glob("migrations/versions/*.py"))
    first, second = page_blocks("Update")[1:]
    run(uv(), "sync", "--quiet", cwd=stack.project)
    stack.run("bash", "-euc", first)
    [new] = set(stack.project.glob("migrations/versions/*.py")) - known
    text = new.read_text()
    if "used_at" in text:  # from 0.2
        for name, argument in re.findall(r"\| `(\w+)` \| `(server_default=.*)` \|", PAGE):
            column = rf'(Column\(\s*"{name}",[^=]*?nullable=False)'
            text, count = re.subn(column, lambda match, a=argument: f"{match[1]}, {a}", text)
            assert count == 1, name
        if "batch_alter_table" in text:  # SQLite
            [block] = page_blocks("From 0.2 to 0.3", "python")
            end = "    # ### end Alembic commands ###\n"
            text = text.replace(end, textwrap.indent(textwrap.dedent(block), "    "), 1)
        start = "upgrade() -> None:\n"
        text = text.replace(start, f'{start}    op.execute("DELETE FROM refresh_tokens")\n', 1)
    if "op." in text:
        new.write_text(text)
    else:
        new.unlink()
    stack.run("bash", "-euc", second.partition("uv run pytest")[0])
    commit(stack.project, "Update Forge")


def run_job(api: httpx.Client) -> str:
    """Queue a job, wait until it has succeeded, and return its id."""
    response = api.post("/notify", params={"user_id": 1, "message": "hello"})
    task_id: str = response.raise_for_status().json()["task_id"]
    assert wait_for_task(api, task_id)["status"] == "SUCCESS"
    return task_id


@pytest.mark.parametrize("database", DATABASES)
def test_update_keeps_rows(forge: Forge, tmp_path: Path, database: str) -> None:
    """From the previous version, with the owner's code, a note and a finished job."""
    project = forge.generate(tmp_path, database=database)
    secrets = (project / ".env").read_bytes()
    install(project)
    add_own_code(project)
    with Stack(project, tmp_path / "stack") as stack:
        stack.run("alembic", "revision", "--autogenerate", "-m", "notes")
        if (
            database == "mysql"
        ):  # A generated downgrade of 0.2 fails: a foreign key needs the index.
            [notes] = project.glob("migrations/versions/*_notes.py")
            notes.write_text(re.sub(r"    op\.drop_index\(.*\n", "", notes.read_text()))
        stack.run("alembic", "upgrade", "head")
        commit(project, "Notes")
        api = log_in(stack.start_api("old"), "ann@example.com")
        stack.python(ADD_NOTE)
        stack.start_worker("old worker")
        job = run_job(api)
        stack.stop("old worker")
        stack.stop("old")

        forge.update(project, "--set", "use_monitoring=yes", code=2)
        solve(project)
        migrate(stack)

        api = log_in(stack.start_api("new"), "ann@example.com")
        assert api.get("/users/me").json()["id"] == 1
        assert job in [one["task_id"] for one in api.get("/tasks").json()["items"]]
        stack.start_worker()
        run_job(api)
        assert stack.python(READ_NOTES).strip() == "['kept']"
        run_suite(project, *(["tests/test_migrations.py"] if database != "sqlite" else []))
    assert (project / ".env").read_bytes() == secrets
    assert git(project, "status", "--porcelain") == ""


def test_answers_switched_off_and_on(forge: Forge, tmp_path: Path) -> None:
    """A project that was born with everything keeps its .env, and nothing of the page fails."""
    answers = dict.fromkeys(BOOLEANS, True)
    project = forge.generate(tmp_path, forge.new, database="postgresql", **answers)
    install(project)
    commit(project, "uv.lock")
    secrets = (project / ".env").read_bytes()
    with Stack(project, tmp_path / "stack") as stack:
        log_in(stack.start_api("all on"), "ann@example.com")
        stack.stop("all on")

        forge.update(project, *(word for name in BOOLEANS for word in ("--set", f"{name}=no")))
        migrate(stack)
        assert set(stack.python(TABLES).split()) == {"alembic_version", "users", "refresh_tokens"}
        assert "ann@example.com" in stack.run("python", "-m", "app.users", "list")
        log_in(stack.start_api("all off"), "ann@example.com")
        stack.stop("all off")
        run_suite(project)

        command = page_blocks("Change an answer")[0]
        forge.update(project, *command.split("update.py ")[1].split())
        migrate(stack)
        api = log_in(stack.start_api("on again"), "ann@example.com")
        assert api.get("/users/me").json()["id"] == 1
        stack.start_worker()
        run_job(api)
        run_suite(project, "tests/test_migrations.py", "tests/test_settings.py")
    recorded = json.loads((project / ".forge.json").read_text())["cookiecutter"]
    assert [name for name in BOOLEANS if recorded[name]] == ["use_celery", "use_redis"]
    assert (project / ".env").read_bytes() == secrets


def test_update_with_cruft(forge: Forge, tmp_path: Path) -> None:
    """Secrets and migrations stay as they are."""

    def cruft(*arguments: str, folder: Path) -> str:
        return run("uvx", "cruft", *arguments, cwd=folder, env=forge.environment)

    source = ("create", f"file://{forge.repository}", "--checkout", forge.old, "--no-input")
    cruft(*source, "--extra-context", '{"project_slug": "shop"}', folder=tmp_path)
    project = tmp_path / "shop"
    git(project, "init", "-q")
    pyproject = project / "pyproject.toml"
    [skip] = page_blocks("With cruft", "toml")
    pyproject.write_text(f"{skip}\n{pyproject.read_text()}")
    commit(project)
    secrets = (project / ".env").read_bytes()
    output = cruft("update", "--checkout", forge.new, "--skip-apply-ask", folder=project)
    assert not list(project.rglob("*.rej")), output
    assert "Next:" not in cruft("diff", folder=project)  # The end of a generation.
    assert (project / ".env").read_bytes() == secrets
    assert not git(project, "diff", "--name-only", "HEAD", "--", "migrations/versions")
    recorded = json.loads((project / ".cruft.json").read_text())["commit"]
    assert recorded == git(forge.repository, "rev-parse", forge.new)
