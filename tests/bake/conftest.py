"""All combinations of answers, each baked once, and what linters say about them."""

import hashlib
import itertools
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bake
from tests.harness import Answers, combinations, name_of, project_environment, run, uv

Bakes = dict[str, tuple[Answers, Path]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, one of them bakes all combinations."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("bake"))


@pytest.fixture(scope="session", params=combinations(), ids=name_of)
def answers(request: pytest.FixtureRequest) -> Answers:
    """A combination of answers: a test that takes it, or its project, runs for each."""
    combination: Answers = request.param
    return combination


@pytest.fixture(scope="session")
def project(answers: Answers, bakes: Bakes) -> Path:
    """The project of a combination."""
    return bakes[name_of(answers)][1]


@pytest.fixture(scope="session")
def bakes(request: pytest.FixtureRequest, bake: Bake) -> Bakes:
    """The combinations that this run is about (-k mysql), by name, with their projects."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    chosen = {
        name_of(call.params["answers"]) for call in calls if call and "answers" in call.params
    }
    return {
        name_of(answers): (answers, bake(**answers))
        for answers in combinations()
        if not chosen or name_of(answers) in chosen
    }


def distinct(bakes: Bakes, identity: Callable[[Path], str]) -> dict[str, Path]:
    """Return one project for each identity."""
    found: dict[str, Path] = {}
    for _, project in bakes.values():
        found.setdefault(identity(project), project)
    return found


def requirements(project: Path) -> tuple[set[str], set[str]]:
    """Return what a project declares: for running it, and for developing it."""
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    return set(pyproject["project"]["dependencies"]), set(pyproject["dependency-groups"]["dev"])


@pytest.fixture(scope="session")
def tools(bakes: Bakes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with all that any project depends on."""
    folder = tmp_path_factory.mktemp("environment")
    everything = set().union(*(set().union(*requirements(p)) for _, p in bakes.values()))
    run(uv(), "venv", "--quiet", "--python", sys.executable, folder, cwd=folder)
    python = folder / "bin/python"
    run(uv(), "pip", "install", "--quiet", "--python", python, *sorted(everything), cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="session")
def lint(bakes: Bakes, tools: Path) -> list[str]:
    """What ruff says about all projects, line by line."""
    lines = []
    for command in (["check", "--output-format=concise"], ["format", "--check"]):
        result = subprocess.run(
            [tools / "ruff", *command, "--no-cache", *(project for _, project in bakes.values())],
            cwd=tools,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode in (0, 1), result.stderr
        lines += result.stdout.splitlines()
    return lines


def mypy_configuration(project: Path) -> dict[str, Any]:
    """Return the part of pyproject.toml that mypy reads."""
    table: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["mypy"]
    return table


def python_code(project: Path) -> str:
    """Return a digest of all that mypy reads."""
    digest = hashlib.sha256(str(mypy_configuration(project)).encode())
    for path in sorted(project.rglob("*.py")):
        digest.update(str(path.relative_to(project)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def types(
    bakes: Bakes, tools: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[str]]]]:
    """What mypy says about each distinct project, by ``python_code``, once it has.

    With one cache, libraries and modules that are alike are analysed once. Other options for all
    modules make mypy begin again, so each set of options has a cache and a thread of its own.
    """
    with ExitStack() as stack:
        threads: dict[str, tuple[ThreadPoolExecutor, Path]] = {}
        found = {}
        for digest, project in distinct(bakes, python_code).items():
            options = {n: v for n, v in mypy_configuration(project).items() if n != "overrides"}
            if str(options) not in threads:
                thread = ThreadPoolExecutor(max_workers=1)
                stack.callback(thread.shutdown, cancel_futures=True)
                threads[str(options)] = (thread, tmp_path_factory.mktemp("mypy"))
            thread, cache = threads[str(options)]
            found[digest] = thread.submit(mypy, tools / "mypy", project, cache)
        yield found


# A second for each project: with one cache, mypy takes a file of the same path, size and second for
# the one that it knows.
SECONDS = itertools.count()


def mypy(program: Path, project: Path, cache: Path) -> list[str]:
    """Return what mypy says about a project."""
    second = next(SECONDS)
    for path in project.rglob("*.py"):
        os.utime(path, (second, second))
    result = subprocess.run(
        [program, "--no-error-summary", "--cache-dir", cache],
        cwd=project,
        env=project_environment(project),
        capture_output=True,
        text=True,
        check=False,
    )
    return (result.stdout + result.stderr).splitlines() if result.returncode else []


@pytest.fixture(scope="session", autouse=True)
def types_begin_first(request: pytest.FixtureRequest) -> None:
    """They take the longest, and other tests run meanwhile."""
    if any("types" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("types")
