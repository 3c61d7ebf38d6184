"""The tests that a generated project brings, run as its owner runs them: on real servers."""

import os
import re
from pathlib import Path

import pytest

from tests.conftest import Answers, Bake, install, name_of, run_suite

# Every database x {nothing, Redis, Celery}, the other answers in turn; each Python version twice
# at least.
SUITES: list[tuple[str, Answers]] = [
    ("3.13", {"database": "sqlite"}),
    ("3.12", {"database": "postgresql"}),
    ("3.11", {"database": "mysql"}),
    ("3.12", {"database": "sqlite", "use_celery": False}),
    ("3.11", {"database": "postgresql", "use_celery": False, "use_backup": False}),
    ("3.13", {"database": "mysql", "use_celery": False, "use_docker": False}),
    ("3.11", {"database": "sqlite", "use_celery": False, "use_redis": False, "use_docker": False}),
    ("3.13", {"database": "postgresql", "use_celery": False, "use_redis": False}),
    ("3.12", {"database": "mysql", "use_celery": False, "use_redis": False, "use_backup": False}),
    ("3.12", {"database": "sqlite", "use_backup": False}),
]


@pytest.mark.parametrize(
    ("python", "answers"),
    SUITES,
    ids=[f"{python}-{name_of(answers)}" for python, answers in SUITES],
)
def test_generated_suite(bake: Bake, python: str, answers: Answers, count) -> None:
    project = bake(**answers)
    install(project, python)
    # A clean clone has no .env: the suite brings its own settings.
    (project / ".env").unlink()
    before = leftovers(project)
    output = run_suite(project, "-p", "no:cacheprovider")
    assert leftovers(project) == before
    skipped = re.findall(r"^SKIPPED .*$", output, re.MULTILINE)
    if skipped and not os.environ.get("CI"):
        pytest.skip(f"{name_of(answers)}: {skipped[0]}")
    count("generated suites", 1)


def leftovers(project: Path) -> set[str]:
    """Return what stands in a project, less what Python and its tools keep for themselves."""
    ignored = {".venv", "__pycache__"}
    return {
        str(path.relative_to(project))
        for path in project.rglob("*")
        if not ignored & set(path.relative_to(project).parts)
    }
