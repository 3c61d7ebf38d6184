"""Fixtures: projects that are baked with pytest-cookies, and installed ones."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import TEMPLATE, Answers, combinations, install

Bake = Callable[..., Path]
Bakes = list[tuple[Answers, Path]]


@pytest.fixture(scope="session")
def bake(cookies_session, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """A function that bakes a project from answers and returns its folder."""
    folder = str(tmp_path_factory.mktemp("hooks"))

    def bake(**answers: str | bool) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            # Cookiecutter leaves its rendered hooks in the temporary folder.
            patch.setattr(tempfile, "tempdir", folder)
            result = cookies_session.bake(extra_context=answers, template=str(TEMPLATE))
        if result.exception:
            raise result.exception
        return Path(result.project_path)

    return bake


@pytest.fixture(scope="session")
def bakes(bake: Bake) -> Bakes:
    """All 48 combinations with the project that each gives."""
    return [(answers, bake(**answers)) for answers in combinations()]


@pytest.fixture(scope="session")
def installed(bake: Bake) -> Bake:
    """A function that bakes and installs a project; the same one for the same answers."""
    projects: dict[str, Path] = {}

    def installed(python: str | None = None, **answers: str | bool) -> Path:
        key = repr((python, sorted(answers.items())))
        if key not in projects:
            project = bake(**answers)
            install(project, python)
            projects[key] = project
        return projects[key]

    return installed


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """A function that adds to one of the counts that the run ends with."""
    return lambda what, number: record_property(f"count:{what}", number)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many projects were baked, checked and run."""
    counts: dict[str, int] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if report.when == "call" and name.startswith("count:"):
                what = name.removeprefix("count:")
                counts[what] = counts.get(what, 0) + value
    if counts:
        text = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
        terminalreporter.write_sep("=", f"passed: {text}")
