"""Generate, install and run projects."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

TEMPLATE = Path(__file__).parents[2]
PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
QUESTIONS: dict[str, Any] = {
    name: value
    for name, value in json.loads((TEMPLATE / "cookiecutter.json").read_text()).items()
    if not name.startswith("_")
}
DATABASES: list[str] = QUESTIONS["database"]
BOOLEANS = [name for name, value in QUESTIONS.items() if isinstance(value, bool)]

# With FULL=1 in the environment faults are longer and more: once for each release.
FULL = "FULL" in os.environ

Answers = dict[str, str | bool]

# What the tests start from, whatever a fork has for its own defaults.
STANDARD: Answers = {
    "project_name": "My API",
    "project_slug": "my-api",
    "database": "sqlite",
    "use_celery": True,
    "use_redis": True,
    "use_backup": True,
    "use_docker": True,
    "use_monitoring": False,
}


def combinations() -> list[Answers]:
    """Return all combinations of the answers that choose features."""
    return [
        {"database": database} | dict(zip(BOOLEANS, flags, strict=True))
        for database in DATABASES
        for flags in itertools.product([True, False], repeat=len(BOOLEANS))
    ]


def name_of(answers: Answers) -> str:
    """Return a short name for a combination, such as ``mysql-celery-redis``."""
    answers = STANDARD | answers
    on = [name.removeprefix("use_") for name in BOOLEANS if answers.get(name)]
    return "-".join([str(answers["database"]), *on])


def applied(answers: Answers) -> Answers:
    """Return the answers as the template applies them: Celery needs Redis."""
    return answers | {"use_redis": answers["use_redis"] or answers["use_celery"]}


def files_of(project: Path) -> list[Path]:
    """Return all files that belong into version control, and .env."""
    caches = {".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
    return sorted(
        path
        for path in project.rglob("*")
        if path.is_file() and not caches & set(path.relative_to(project).parts)
    )


def code_blocks(text: str, language: str = "bash") -> list[str]:
    """Return the code blocks of a Markdown page in a language."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for found, block in blocks if found == language]


def skip_or_fail(reason: str) -> NoReturn:
    """Skip a test that needs something that this machine lacks. With CI=1 the test fails."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def find_program(*names: str, install: str) -> str:
    """Return the path of the first program that exists; skip the test when there is none.

    Debian keeps the servers of PostgreSQL and MariaDB off PATH.
    """
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), "/usr/sbin"]
    path = os.pathsep.join([os.environ["PATH"], *map(str, folders)])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    skip_or_fail(f"{names[0]} is not installed: {install}")


def generate(
    output: Path, *arguments: str | Path, home: Path | None = None, input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the ``cookiecutter`` command with the template, as a user does.

    ``home`` gets Cookiecutter's replay and temporary files; a folder that is removed by default.
    """
    with tempfile.TemporaryDirectory() as temporary:
        home = home or Path(temporary)
        return subprocess.run(
            [sys.executable, "-m", "cookiecutter", TEMPLATE, "-o", output, *arguments],
            env=os.environ | {"HOME": str(home), "TMPDIR": str(home)},
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def bake(output: Path, **answers: str | bool) -> Path:
    """Generate a project outside pytest-cookies and return its folder."""
    answers = STANDARD | answers
    result = generate(output, "--no-input", *(f"{name}={text}" for name, text in answers.items()))
    assert result.returncode == 0, result.stderr
    return output / str(answers["project_slug"])


def project_environment(project: Path, **changes: str) -> dict[str, str]:
    """Return the environment for a project's commands, with its programs first on PATH.

    What would point them at the environment of these tests is left out.
    """
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT", "PYTHONDONTWRITEBYTECODE")
    # Not items(): pytest changes PYTEST_CURRENT_TEST in another thread meanwhile.
    kept = {
        name: os.environ[name]
        for name in list(os.environ)
        if name not in ours and not name.startswith(("PYTEST_", "UV_RUN_"))
    }
    return kept | {"PATH": f"{project}/.venv/bin:{os.environ['PATH']}"} | changes


def run(
    *command: str | Path, cwd: Path, env: dict[str, str] | None = None, timeout: float = 600
) -> str:
    """Run a program and return its output.

    Raises:
        AssertionError: it ended with another exit code than 0.
    """
    result = subprocess.run(
        command,
        cwd=cwd,
        env=env or project_environment(cwd),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if result.returncode:
        text = " ".join(map(str, command))
        raise AssertionError(f"{text}: {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def uv() -> str:
    """Return the path of uv."""
    return os.environ.get("UV") or find_program("uv", install="python3 -m pip install uv")


def install(project: Path, python: str | None = None, *options: str) -> None:
    """Install a project as its owner does, with a certain Python such as ``3.12`` if one is given.

    The test is skipped when this machine does not have that Python.
    """
    if python:
        find = [uv(), "python", "find", "--no-project", "--no-python-downloads", python]
        if subprocess.run(find, capture_output=True, check=False).returncode:
            skip_or_fail(f"Python {python} is not installed: uv python install {python}")
        options = ("--python", python, *options)
    run(uv(), "sync", "--quiet", *options, cwd=project)


def run_suite(project: Path, *arguments: str, timeout: float = 900) -> str:
    """Run the tests of an installed project and return their output. In CI none may be skipped."""
    python = project / ".venv/bin/python"
    output = run(python, "-m", "pytest", "-q", *arguments, cwd=project, timeout=timeout)
    if os.environ.get("CI"):
        assert " skipped" not in output, output
    return output
