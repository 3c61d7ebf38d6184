"""A project of the previous version is updated to this one, as docs/updating.md says."""

import json
import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.harness import (
    TEMPLATE,
    Stack,
    find_program,
    install,
    log_in,
    run,
    run_suite,
    skip_or_fail,
    wait_for_task,
)

# Version 0.1.0, which has no tag.
FIRST = "cfd1f4a"
PAGE = (TEMPLATE / "docs/updating.md").read_text()

GIT = {f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER")
       for what, text in (("NAME", "Owner"), ("EMAIL", "owner@example.com"))}  # fmt: skip


def git(folder: Path, *arguments: str) -> str:
    """Run git and return its output."""
    return run("git", *arguments, cwd=folder, env=os.environ | GIT).strip()


@dataclass
class Forge:
    """A clone of this repository with a tag for each of two versions."""

    source: str
    environment: dict[str, str]
    old: str = "old-version"
    new: str = "new-version"


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """The previous tag, and the files as they are here, committed or not."""
    find_program("git", install="apt install git")
    if not (TEMPLATE / ".git").exists():
        skip_or_fail("this is not a Git clone: the update test needs the previous version")
    tags = git(TEMPLATE, "tag", "--list", "v*", "--sort=-v:refname").split()
    # The tag of this version has the same files: there would be nothing to update.
    old = next((tag for tag in tags if git(TEMPLATE, "diff", "--name-only", tag)), FIRST)
    folder = tmp_path_factory.mktemp("clone") / "forge.git"  # Cookiecutter looks for "git"
    git(TEMPLATE, "clone", "-q", str(TEMPLATE), str(folder))
    git(folder, "tag", Forge.old, old)
    git(folder, "rm", "-rqf", ".")
    files = git(TEMPLATE, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, files.split("\0")):
        if (TEMPLATE / name).is_file():  # not deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TEMPLATE / name, folder / name)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "This version")
    git(folder, "tag", Forge.new)
    # Cookiecutter keeps clones and answers here instead of in the home directory.
    config = folder.with_name("config.yaml")
    config.write_text(f"cookiecutters_dir: {folder.parent}/clones\nreplay_dir: {folder.parent}\n")
    return Forge(f"file://{folder}", os.environ | GIT | {"COOKIECUTTER_CONFIG": str(config)})


# What the owner adds, as whole files, and as edits of files of the template

MODEL = """\
\"\"\"Notes.\"\"\"

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base


class Note(Base):
    \"\"\"A text that a user has written down.\"\"\"

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    text: Mapped[str] = mapped_column(String(200))
"""

ROUTE = """\
\"\"\"Notes of the caller.\"\"\"

from fastapi import APIRouter
from sqlalchemy import select

from app.api.deps import CurrentUser
from app.core.database import session_scope
from app.models.note import Note

router = APIRouter(prefix="/notes", tags=["notes"])


@router.post("", status_code=201)
def create_note(user: CurrentUser, text: str) -> int:
    \"\"\"Write a note down.\"\"\"
    with session_scope() as session:
        note = Note(user_id=user.id, text=text)
        session.add(note)
        session.flush()
        return note.id


@router.get("")
def list_notes(user: CurrentUser) -> list[str]:
    \"\"\"Return the caller's notes.\"\"\"
    with session_scope() as session:
        return list(session.scalars(select(Note.text).where(Note.user_id == user.id)))
"""

TASK = """\
\"\"\"A task of the owner's.\"\"\"

from app.core.celery import celery_app


@celery_app.task
def shout(text: str) -> str:
    \"\"\"Return a text in capital letters.\"\"\"
    return text.upper()
"""


def for_version_0_1(text: str) -> str:
    """Return a route as it was written for version 0.1, as the changelog says."""
    text = text.replace("user: CurrentUser", "user_id: CurrentUserId").replace("user.id", "user_id")
    return re.sub(r"CurrentUser\b", "CurrentUserId", text)


def add_route(text: str) -> str:
    """Include the router of the notes."""
    text = re.sub(r"(from app\.api\.routes import .*?)\busers\b", r"\1notes, users", text, count=1)
    return text.replace(
        "api_router.include_router(users", "api_router.include_router(notes.router)\n"
        "api_router.include_router(users", 1
    )  # fmt: skip


def add_line(text: str) -> str:
    """Add a line to the README."""
    return f"{text}\nOur own line.\n"


def import_model(text: str) -> str:
    """Import the notes with the other models: version 0.1 does not find them by itself."""
    return f"{text}\nfrom app.models.note import Note  # noqa: E402, F401\n"


EDITS: dict[str, Callable[[str], str]] = {
    "app/models/__init__.py": import_model,
    "app/api/routes/__init__.py": add_route,
    "README.md": add_line,
}


class Owner:
    """The owner of a project, who does what the page says."""

    def __init__(self, project: Path, forge: Forge) -> None:
        self.project, self.forge = project, forge

    def edit(self, name: str) -> None:
        path = self.project / name
        path.write_text(EDITS[name](path.read_text()))

    def commit(self, message: str) -> None:
        git(self.project, "add", "-A")
        git(self.project, "commit", "-qm", message)

    def update(self) -> None:
        """Run the page's commands, and resolve conflicts in favour of both sides."""
        result = self.run_update(self.forge.new)
        conflicts = git(self.project, "diff", "--name-only", "--diff-filter=U").split()
        assert result.returncode == 0 or conflicts, result.stdout + result.stderr
        for name in conflicts:
            git(self.project, "checkout", "--theirs", name)
            self.edit(name)
        if conflicts:
            self.commit("Merge the new version of Forge")
        run("uv", "sync", "--quiet", cwd=self.project)

    def run_update(self, version: str) -> subprocess.CompletedProcess[str]:
        """Run the page's commands for an update to a version."""
        [script] = re.findall(r"```bash\n(\(\n  set -eu.*?)```", PAGE, re.DOTALL)
        names = f"SOURCE='{self.forge.source}' VERSION={version}"
        return subprocess.run(
            ["bash", "-c", re.sub("SOURCE=.* VERSION=.*", names, script)],
            cwd=self.project,
            env=self.forge.environment,
            input="\n" * 10,  # the questions that are new
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def switch(self, **answers: bool) -> None:
        """Change answers as the page says."""
        path = self.project / ".forge.json"
        record = json.loads(path.read_text())
        record["cookiecutter"] |= answers
        path.write_text(json.dumps(record, indent=2) + "\n")
        self.commit("Other answers")
        self.update()
        recorded = json.loads(path.read_text())["cookiecutter"]
        assert recorded | answers == recorded


@pytest.fixture
def owner(forge: Forge, tmp_path: Path) -> Owner:
    """The owner of a project of the old version, on PostgreSQL and without Celery."""
    answers = ["project_slug=shop", "database=postgresql", "use_celery=no", "use_redis=no"]
    answers += ["use_backup=no", "use_docker=no"]
    command = ["uvx", "cookiecutter", forge.source, "--checkout", forge.old, "--no-input"]
    run(*command, "-o", str(tmp_path), *answers, cwd=tmp_path, env=forge.environment)
    owner = Owner(tmp_path / "shop", forge)
    git(owner.project, "init", "-q", "-b", "main")
    owner.commit("Forge")
    install(owner.project)
    owner.commit("uv.lock")
    return owner


def test_update_and_change_of_answers(owner: Owner, tmp_path: Path) -> None:
    project = owner.project
    secrets = (project / ".env").read_bytes()
    (project / "app/models/note.py").write_text(MODEL)
    route = project / "app/api/routes/notes.py"
    is_first = "CurrentUserId" in (project / "app/api/deps.py").read_text()
    route.write_text(for_version_0_1(ROUTE) if is_first else ROUTE)
    for name in EDITS:
        owner.edit(name)
    with Stack(project, tmp_path / "stack") as stack:
        stack.run("alembic", "revision", "--autogenerate", "-m", "notes")
        stack.run("alembic", "upgrade", "head")
        owner.commit("Notes")
        api = log_in(stack.start_api("old"), "ann@example.com")
        assert api.post("/notes", params={"text": "kept"}).status_code == 201
        stack.stop("old")

        # A newer version.
        owner.update()
        if is_first:
            route.write_text(ROUTE)
            owner.commit("CurrentUser")
        assert "Our own line." in (project / "README.md").read_text()
        merge_heads(owner, stack)

        # Celery is switched on.
        owner.switch(use_celery=True, use_redis=True)
        merge_heads(owner, stack)
        (project / "app/tasks/shout.py").write_text(TASK)
        owner.commit("A task, and the merged migrations")
        database = stack.environment["DATABASE_URL"]
        with_celery = Stack(project, tmp_path / "celery", servers=False, DATABASE_URL=database)
        with_celery.start_redis()
        with with_celery:
            api = log_in(with_celery.start_api(), "ann@example.com")
            assert api.get("/notes").json() == ["kept"]
            with_celery.start_worker()
            response = api.post("/notify", params={"user_id": 1, "message": "hello"})
            assert wait_for_task(api, response.json()["task_id"])["status"] == "SUCCESS"
            output = with_celery.python(
                "from app.tasks.shout import shout; print(shout.delay('x').get(timeout=60))"
            )
            assert output.strip() == "X"
            run_suite(project, "-x")

        # And off again. The owner deletes the task; the migration stays, and another drops tables.
        git(project, "rm", "-q", "app/tasks/shout.py")
        owner.commit("No tasks")
        owner.switch(use_celery=False, use_redis=False)
        assert not list(project.glob("app/jobs/*.py"))
        run_page_commands(stack, "When an answer is switched off")
        owner.commit("Without jobs")
        tables = stack.python(
            "from sqlalchemy import inspect; from app.core.database import get_engine;"
            "print(*inspect(get_engine()).get_table_names())"
        )
        assert set(tables.split()) == {"alembic_version", "users", "refresh_tokens", "notes"}
        api = log_in(stack.start_api("last"), "ann@example.com")
        assert api.get("/notes").json() == ["kept"]
        run_suite(project, "-x")
    assert (project / ".env").read_bytes() == secrets
    assert git(project, "status", "--porcelain") == ""


def test_failed_update_changes_nothing(owner: Owner) -> None:
    """Neither a version that does not exist nor a project within a larger repository loses files."""
    project = owner.project
    before = git(project, "rev-parse", "HEAD")
    assert owner.run_update("v9.9.9").returncode != 0
    assert git(project, "rev-parse", "HEAD") == before
    assert git(project, "status", "--porcelain") == ""

    repository = project.with_name("repository")
    shutil.copytree(project, repository / "backend", ignore=shutil.ignore_patterns(".git"))
    (repository / "LICENSE").write_text("Ours.\n")
    git(repository, "init", "-q", "-b", "main")
    inner = Owner(repository / "backend", owner.forge)
    inner.commit("Everything")
    result = inner.run_update(owner.forge.new)
    assert result.returncode != 0
    assert ".forge.json" in result.stderr
    assert git(repository, "status", "--porcelain") == ""
    assert (repository / "LICENSE").exists()


def test_update_in_a_clone(owner: Owner, tmp_path: Path) -> None:
    """A shallow clone is refused: its first commit has the owner's files, and they would go."""
    (owner.project / "ours.txt").write_text("ours")
    owner.commit("Ours")
    shallow = Owner(tmp_path / "shallow", owner.forge)
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{owner.project}", "shallow")
    result = shallow.run_update(owner.forge.new)
    assert (shallow.project / "ours.txt").exists()
    assert (result.returncode, "this one is shallow" in result.stderr) == (1, True)

    owner.update()
    colleague = Owner(tmp_path / "colleague", owner.forge)
    git(tmp_path, "clone", "-q", str(owner.project), "colleague")
    assert colleague.run_update(owner.forge.new).returncode == 0
    start = git(colleague.project, "rev-parse", "forge^")
    assert start == git(owner.project, "rev-parse", "forge")


def merge_heads(owner: Owner, stack: Stack) -> None:
    """Join Forge's new migrations, if there are any, and the owner's, which follow the same one."""
    if len(stack.run("alembic", "heads").splitlines()) == 1:
        stack.run("alembic", "upgrade", "head")
        return
    with pytest.raises(AssertionError, match="Multiple head revisions"):
        stack.run("alembic", "upgrade", "head")
    run_page_commands(stack, "### Two heads")
    owner.commit("Merged migrations")


def run_page_commands(stack: Stack, after: str) -> None:
    """Run the first block of commands after a place in the page, as the owner of the stack."""
    block = re.search(r"```bash\n(.*?)```", PAGE[PAGE.index(after) :], re.DOTALL)
    assert block
    environment = GIT | {"UV_NO_SYNC": "1"}
    stack.run("bash", "-euc", textwrap.dedent(block[1]), **environment)


def test_update_with_cruft(forge: Forge, tmp_path: Path) -> None:
    """Secrets stay as they are and are not shown."""
    answers = json.dumps({"project_slug": "shop", "use_celery": False})

    def cruft(*arguments: str, folder: Path = tmp_path) -> str:
        command = ["uvx", "--from=cruft", "cruft", *arguments]
        return run(*command, cwd=folder, env=forge.environment)

    create = ["create", forge.source, "--checkout", forge.old, "--no-input"]
    cruft(*create, "--extra-context", answers)
    project = tmp_path / "shop"
    git(project, "init", "-q")
    owner = Owner(project, forge)
    owner.commit("Forge")
    pyproject = project / "pyproject.toml"
    [skip] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    pyproject.write_text(f"{skip}\n{pyproject.read_text()}")
    owner.commit("Cruft leaves .env alone")
    secrets = (project / ".env").read_bytes()
    output = cruft("update", "--checkout", forge.new, "--skip-apply-ask", folder=project)
    assert not list(project.rglob("*.rej")), output
    assert "<<<<<<<" not in pyproject.read_text()
    assert (project / ".env").read_bytes() == secrets
    for value in dotenv_values(project / ".env").values():
        assert len(value or "") < 30 or str(value) not in output
    commit = json.loads((project / ".cruft.json").read_text())["commit"]
    assert commit == git(Path(forge.source.removeprefix("file://")), "rev-parse", forge.new)
    owner.commit("The new version")

    # An answer is changed.
    change = re.search(r"cruft update --variables-to-update '(.*)'", PAGE)
    assert change
    cruft("update", "--variables-to-update", change[1], "--skip-apply-ask", folder=project)
    assert not list(project.rglob("*.rej"))
    assert list(project.glob("app/jobs/*.py"))
    assert json.loads((project / ".forge.json").read_text())["cookiecutter"]["use_redis"] is True
