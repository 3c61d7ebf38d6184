"""The tests that a generated project brings, run as its owner runs them: on real servers."""

import re
import subprocess

import pytest

from tests.conftest import Bake
from tests.harness import (
    FULL,
    Answers,
    files_of,
    install,
    name_of,
    project_environment,
    require_docker,
    run,
    run_suite,
    skip_or_fail,
    uv,
)

# Every database with {nothing, Redis, Celery}, the other answers in turn; each Python at least twice.
# The default answers are tested further down, file by file and on the newest Python.
SUITES: list[tuple[str, Answers]] = [
    ("3.12", {"database": "postgresql", "use_monitoring": True}),
    ("3.11", {"database": "mysql"}),
    ("3.12", {"database": "sqlite", "use_celery": False}),
    ("3.11", {"database": "postgresql", "use_celery": False, "use_backup": False}),
    ("3.11", {"database": "sqlite", "use_celery": False, "use_redis": False, "use_docker": False}),
    ("3.13", {"database": "postgresql", "use_celery": False, "use_redis": False}),
    ("3.13", {"database": "mysql", "use_celery": False, "use_redis": False, "use_docker": False}),
    ("3.12", {"database": "sqlite", "use_backup": False, "use_monitoring": True}),
]


@pytest.mark.parametrize(
    ("python", "answers"),
    SUITES,
    ids=[f"{python}-{name_of(answers)}" for python, answers in SUITES],
)
def test_generated_suite(bake: Bake, python: str, answers: Answers) -> None:
    project = bake(**answers)
    install(project, python)
    (project / ".env").unlink()  # a clean clone has none: the tests bring their own settings
    before = files_of(project)
    output = run_suite(project)
    assert files_of(project) == before, "the tests leave files behind"
    skipped = re.findall(r"^SKIPPED .*$", output, re.MULTILINE)
    if skipped:
        skip_or_fail(f"{name_of(answers)}: {skipped[0]}")


def test_tests_run_alone_in_parallel_and_in_any_order(bake: Bake) -> None:
    """The suite of the default answers: shuffled in two processes; with FULL=1 also file by file."""
    project = bake(database="sqlite")
    install(project, "3.13")
    plugins = ("--with", "pytest-xdist", "--with", "pytest-randomly")
    run(uv(), "run", "--quiet", *plugins, "pytest", "-q", "-n2", cwd=project)
    if FULL:
        for path in sorted((project / "tests").rglob("test_*.py")):
            run_suite(project, str(path.relative_to(project)))


def test_generated_suite_in_the_image_of_the_newest_python(bake: Bake) -> None:
    """Python 3.14, the default: in its public image, since few machines have it."""
    require_docker()
    image = "python:3.14-slim"
    command = ["docker", "image", "inspect", image]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pulled = subprocess.run(["docker", "pull", "-q", image], capture_output=True, check=False)
        if pulled.returncode:
            skip_or_fail(f"the image {image} cannot be pulled")
    project = bake(database="sqlite")
    script = """
        set -e
        cp -r /project /tmp/project
        cd /tmp/project
        pip install -q --root-user-action=ignore uv
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends redis-server >/dev/null
        uv sync -q
        CI=1 uv run pytest -q -p no:cacheprovider
    """
    mount = f"{project}:/project:ro"
    result = subprocess.run(
        ["docker", "run", "--rm", "-v", mount, image, "sh", "-c", script],
        env=project_environment(project),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
