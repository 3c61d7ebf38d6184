"""What the tests of updates share: the template's last two versions, and an owner's code."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import PROJECT, TEMPLATE, find_program, run, skip_or_fail

PAGE = (TEMPLATE / "docs/updating.md").read_text()
RAW = "https://raw.githubusercontent.com/org/forge/main"
GIT = {f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER")
       for what, text in (("NAME", "Owner"), ("EMAIL", "owner@example.com"))}  # fmt: skip
RECORD = f"{PROJECT.name}/.forge.json"


def git(folder: Path, *arguments: str) -> str:
    """Run git and return its output."""
    return run("git", *arguments, cwd=folder, env=os.environ | GIT).strip()


def version_at(commit: str) -> str:
    """Return the version of the template in a commit."""
    text = git(TEMPLATE, "show", f"{commit}:{RECORD}")
    return re.findall(r'"forge_version": "(.*)"', text)[0]


def previous_release() -> str:
    """Return the commit of the version before this one: its tag, or the last that had it."""
    current = re.findall(r'"forge_version": "(.*)"', (TEMPLATE / RECORD).read_text())[0]
    tags = git(TEMPLATE, "tag", "--list", "v*", "--sort=-v:refname", "--merged").split()
    changes = git(TEMPLATE, "log", "--first-parent", "--format=%H^", "--", RECORD).split()
    candidates = [*(tag for tag in tags if tag != f"v{current}"), "HEAD", *changes]
    return next(name for name in candidates if version_at(name) != current)


@dataclass
class Forge:
    """A bare clone of this repository, in which the newest tag has the files as they are here."""

    repository: Path
    old: str
    new: str
    server: str  # serves the folder of the clone, with update.py
    environment: dict[str, str]

    def generate(self, folder: Path, version: str = "", **answers: str | bool) -> Path:
        """Generate a project, of the old version by default, and commit it."""
        pairs = [f"{name}={text}" for name, text in ({"project_slug": "shop"} | answers).items()]
        command = [sys.executable, "-m", "cookiecutter", f"file://{self.repository}", "--no-input"]
        command += ["--checkout", version or self.old, "-o", str(folder), *pairs]
        run(*command, cwd=folder, env=self.environment)
        git(folder / "shop", "init", "-q", "-b", "main")
        commit(folder / "shop")
        return folder / "shop"

    def update(self, project: Path, *options: str, code: int = 0) -> str:
        """Run update.py in a project and return its output, which is one line if it fails."""
        command = [sys.executable, TEMPLATE / "update.py", *options]
        result = subprocess.run(
            command, cwd=project, env=self.environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == code, result.stdout + result.stderr
        assert bool(result.stderr) == (code == 1), result.stderr
        return result.stdout + result.stderr


@contextmanager
def last_versions(folder: Path) -> Iterator[Forge]:
    """The previous version, and the files as they are here, committed or not."""
    find_program("git", install="apt install git")
    if not (TEMPLATE / ".git").exists():
        skip_or_fail("this is not a Git clone: the update test needs the previous version")
    old = previous_release()
    clone = folder / "clone"
    git(TEMPLATE, "clone", "-q", str(TEMPLATE), str(clone))
    if tags := git(clone, "tag").split():
        git(clone, "tag", "--delete", *tags)
    versions = [f"v{version_at(old)}", "v99.0"]
    git(clone, "tag", versions[0], git(TEMPLATE, "rev-parse", old))
    git(clone, "rm", "-rqf", ".")
    files = git(TEMPLATE, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, files.split("\0")):
        if (TEMPLATE / name).is_file():  # not deleted
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TEMPLATE / name, clone / name)
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "--allow-empty", "-m", "This version")
    git(clone, "tag", versions[1])
    git(folder, "clone", "-q", "--bare", str(clone), "forge.git")
    git(folder / "forge.git", "remote", "remove", "origin")
    git(folder / "forge.git", "update-server-info")  # for HTTP
    shutil.copy(TEMPLATE / "update.py", folder)
    # Cookiecutter keeps clones and answers here instead of in the home directory.
    config = folder / "config.yaml"
    config.write_text(f"cookiecutters_dir: {folder}/clones\nreplay_dir: {folder}\n")
    environment = os.environ | GIT | {"COOKIECUTTER_CONFIG": str(config)}
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield Forge(folder / "forge.git", *versions, address, environment)
        server.shutdown()


def commit(project: Path, message: str = "Forge") -> None:
    """Commit everything."""
    git(project, "add", "-A")
    git(project, "commit", "-qm", message)


def page_blocks(after: str, language: str = "bash") -> list[str]:
    """Return the blocks of a section of the page."""
    section = re.split(r"\n## ", PAGE[PAGE.index(f"\n## {after}\n") + 4 :])[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def state(project: Path) -> tuple[str, ...]:
    """Return what an update that fails must not change."""
    files = {str(path): path.read_bytes() for path in project.iterdir() if path.is_file()}
    return git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain"), repr(files)


# What the owner adds

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
TASK = """\
\"\"\"A task of the owner's.\"\"\"

from sqlalchemy import select

from app.core.celery import celery_app, with_db_init
from app.core.config.settings import settings
from app.core.database import session_scope
from app.models.note import Note


@celery_app.task
@with_db_init
def read_notes() -> list[str]:
    \"\"\"Return the notes.\"\"\"
    with session_scope() as session:
        return list(session.scalars(select(Note.text).limit(settings.app.MAX_NOTES)))
"""
SERVICE = """
  mailpit:
    image: axllent/mailpit
"""
FIELD = "    MAX_NOTES: int = 100\n"


def edit(path: Path) -> None:
    """Add the owner's lines to a file of the template, wherever this version has their place."""
    text = path.read_text()
    if path.name == "README.md":
        text += "\nOur own line.\n"
    elif path.name == "docker-compose.yml":
        text = text.replace("services:\n", f"services:{SERVICE}", 1)
    elif path.name == ".env.example":
        text = text.replace("LOG_LEVEL=INFO\n", "LOG_LEVEL=INFO\nMAX_NOTES=100\n", 1)
    elif path.name == "__init__.py":
        text += "\nfrom app.models.note import Note  # noqa: E402, F401\n"
    else:
        text = re.sub(r"(    ACCESS_TOKEN_MINUTES: .*\n)", rf"\1{FIELD}", text, count=1)
    path.write_text(text)


def add_own_code(project: Path) -> None:
    """Add a model, a task, a setting, a Compose service and a line of the README."""
    (project / "app/models/note.py").write_text(MODEL)
    (project / "app/tasks/notes.py").write_text(TASK)
    for path in [project / "README.md", project / "docker-compose.yml", project / ".env.example"]:
        edit(path)
    for path in (project / "app/core/config").glob("[a-z]*.py"):
        edit(path)


def solve(project: Path) -> None:
    """Take the new version of each file in conflict, with the owner's lines."""
    for name in git(project, "diff", "--name-only", "--diff-filter=U").split():
        if git(project, "ls-files", "--unmerged", name).splitlines()[-1].split()[2] == "3":
            git(project, "checkout", "--theirs", name)
            edit(project / name)
        else:  # deleted
            git(project, "rm", "-q", name)
    settings = project / "app/core/config/settings.py"
    if FIELD not in settings.read_text():
        edit(settings)
    models = project / "app/models/__init__.py"
    if "iter_modules" not in models.read_text():
        edit(models)
    git(project, "add", "-A")
