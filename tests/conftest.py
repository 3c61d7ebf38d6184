"""Fixtures: projects that are baked with pytest-cookies, and installed ones."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path

import pytest
from cookiecutter.environment import StrictEnvironment
from jinja2 import FileSystemBytecodeCache

from tests.harness import STANDARD, TEMPLATE, install

Bake = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The short tests come last, so that no process waits for a long one at the end."""
    items.sort(key=lambda item: item.path.is_relative_to(TEMPLATE / "tests/bake"))


@pytest.fixture(scope="session", autouse=True)
def template_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Jinja compiles each file of the template once."""
    cache = FileSystemBytecodeCache(str(tmp_path_factory.mktemp("jinja")))
    cached = partialmethod(StrictEnvironment.__init__, bytecode_cache=cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StrictEnvironment, "__init__", cached)
        yield


@pytest.fixture(scope="session")
def bake(cookies_session, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """A function that bakes a project from answers and returns its folder."""
    folder = str(tmp_path_factory.mktemp("hooks"))

    def bake(**answers: str | bool) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", folder)  # Cookiecutter leaves its rendered hooks
            result = cookies_session.bake(extra_context=STANDARD | answers, template=str(TEMPLATE))
        if result.exception:
            raise result.exception
        assert result.exit_code == 0
        return Path(result.project_path)

    return bake


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
