"""Every combination of answers, baked once, for all tests."""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).parents[1]
PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"
DATABASES = ("sqlite", "postgresql", "mysql")
BOOLEANS = ("use_celery", "use_redis", "use_backup", "use_docker")

Answers = dict[str, str | bool]


def combinations() -> list[Answers]:
    """Return all 48 combinations of the answers that choose features."""
    return [
        {"database": database} | dict(zip(BOOLEANS, flags, strict=True))
        for database in DATABASES
        for flags in itertools.product([True, False], repeat=len(BOOLEANS))
    ]


def name_of(answers: Answers) -> str:
    """Return a short name for a combination, such as ``mysql-celery-redis``."""
    on = [name.removeprefix("use_") for name in BOOLEANS if answers.get(name, True)]
    return "-".join([str(answers.get("database", "sqlite")), *on])


def unavailable(reason: str) -> None:
    """Skip what cannot be started on this machine, with the way to get it. In CI it fails."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


Bake = Callable[..., Path]


@pytest.fixture(scope="session")
def bake(tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """A function that bakes a project from answers, in this process, and returns its folder."""
    home = tmp_path_factory.mktemp("home")
    config = home / "config.yaml"
    config.write_text(f"cookiecutters_dir: {home}\nreplay_dir: {home}\n")

    def bake(**answers: str | bool) -> Path:
        folder = tmp_path_factory.mktemp("bake")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(home))  # Cookiecutter leaves files in it
            project = cookiecutter(
                str(TEMPLATE),
                no_input=True,
                extra_context=answers,
                output_dir=str(folder),
                config_file=str(config),
            )
        return Path(project)

    return bake


@pytest.fixture(scope="session")
def bakes(bake: Bake) -> list[tuple[Answers, Path]]:
    """All 48 combinations with the project that each gives."""
    return [(answers, bake(**answers)) for answers in combinations()]


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """A function that adds to one of the counts that the run ends with."""
    return lambda what, number: record_property(f"count:{what}", number)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was baked, checked and run."""
    counts: dict[str, int] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if report.when == "call" and name.startswith("count:"):
                what = name.removeprefix("count:")
                counts[what] = counts.get(what, 0) + value
    if counts:
        text = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
        terminalreporter.write_sep("=", f"passed: {text}")


def uv() -> str:
    """Return the path of uv, or end the test as unavailable."""
    path = shutil.which("uv") or os.environ.get("UV")
    if path is None:
        unavailable("uv is needed to install the baked projects: pip install uv")
    return str(path)


def run(
    *command: str | Path, cwd: Path, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it printed; fail the test when it fails."""
    result = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    if result.returncode != 0:
        pytest.fail(f"{command} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def project_environment(**changes: str) -> dict[str, str]:
    """Return the environment for a baked project's commands: ours, less what names our own venv."""
    names = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTEST_ADDOPTS")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in names and not name.startswith(("PYTEST_XDIST", "UV_RUN_"))
    }
    return kept | changes


def run_suite(project: Path, *arguments: str, timeout: float = 600) -> str:
    """Run an installed project's tests, as its owner does; return what they printed."""
    command = (uv(), "run", "--no-sync", "pytest", "-q", *arguments)
    return run(*command, cwd=project, env=project_environment(), timeout=timeout).stdout


def install(project: Path, python: str | None = None) -> None:
    """Give a baked project its own environment, as ``uv sync`` does it for its owner."""
    options = ["--python", python] if python else []
    result = subprocess.run(
        [uv(), "sync", "--quiet", *options],
        cwd=project,
        env=project_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        if "No interpreter found" in result.stderr or "python-build-standalone" in result.stderr:
            unavailable(f"no Python {python or 'as asked for'} here: uv python install {python}")
        pytest.fail(result.stderr)
