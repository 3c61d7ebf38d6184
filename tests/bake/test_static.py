"""Every combination of answers, as code: linted, formatted, type-checked, dependencies declared."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import Bakes
from tests.harness import project_environment, run, uv

pytestmark = pytest.mark.xdist_group("bakes")  # the process that has baked them all

# Declared, but used by name or by another package, not by an import.
NOT_IMPORTED = {
    "cryptography",  # PyMySQL's, for passwords with caching_sha2_password
    "flower",  # a command of Celery's
    "httpx2",  # the test client's
    "celery-types",
    "mypy",
    "psycopg",  # named in the database's URL
    "pymysql",
    "python-multipart",  # FastAPI's, for forms
    "ruff",
    "uvicorn",
    "watchfiles",
}


def requirements(project: Path) -> tuple[set[str], set[str]]:
    """Return what a project declares: for running it, and for developing it."""
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    return set(pyproject["project"]["dependencies"]), set(pyproject["dependency-groups"]["dev"])


def distinct(bakes: Bakes) -> list[Path]:
    """Return one project for each distinct set of Python files and dependencies."""
    found: dict[str, Path] = {}
    for _, project in bakes:
        digest = hashlib.sha256()
        for path in sorted([*project.rglob("*.py"), project / "pyproject.toml"]):
            digest.update(str(path.relative_to(project)).encode() + path.read_bytes())
        found.setdefault(digest.hexdigest(), project)
    return list(found.values())


@pytest.fixture(scope="module")
def tools(bakes: Bakes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with all that any project depends on."""
    folder = tmp_path_factory.mktemp("environment")
    everything = set().union(*(set().union(*requirements(project)) for _, project in bakes))
    run(uv(), "venv", "--quiet", "--python", sys.executable, folder, cwd=folder)
    python = folder / "bin/python"
    command = [uv(), "pip", "install", "--quiet", "--python", python, *sorted(everything)]
    run(*command, cwd=folder)
    return folder / "bin"


def test_ruff(bakes: Bakes, tools: Path, count) -> None:
    projects = [project for _, project in bakes]
    run(tools / "ruff", "check", "--no-cache", "--quiet", *projects, cwd=projects[0])
    run(tools / "ruff", "format", "--check", "--no-cache", "--quiet", *projects, cwd=projects[0])
    count("linted projects", len(projects))


def test_types(bakes: Bakes, tools: Path, tmp_path: Path, count) -> None:
    # With one cache the libraries, and modules that are alike, are analysed once.
    projects = distinct(bakes)
    errors = set()
    for project in projects:
        result = subprocess.run(
            [tools / "mypy", "--no-error-summary", "--cache-dir", tmp_path],
            cwd=project,
            env=project_environment(project),
            capture_output=True,
            text=True,
            check=False,
        )
        errors |= set((result.stdout + result.stderr).splitlines() if result.returncode else [])
    assert not errors, "\n".join(sorted(errors))
    count("type-checked projects", len(projects))


def test_dependencies_are_declared_and_used(bakes: Bakes, tools: Path) -> None:
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({k: v for k, v in m.packages_distributions().items()}))"
    )
    result = run(tools / "python", "-c", code, cwd=tools)
    distributions = {
        module: {normal(name) for name in names}
        for module, names in ast.literal_eval(result).items()
    }
    for project in distinct(bakes):
        runtime, development = (
            {normal(re.split(r"[\[><=~ ]", text)[0]) for text in texts}
            for texts in requirements(project)
        )
        used = set()
        for path in project.rglob("*.py"):
            in_app = path.is_relative_to(project / "app") or "migrations" in path.parts
            for module in imports(path):
                names = distributions.get(module, set())
                used |= names
                allowed = runtime if in_app else runtime | development
                local = (project / module).is_dir() or module in sys.stdlib_module_names
                assert local or names & (allowed | TRANSITIVE), f"{path} imports {module}"
        stubs = {name for name in development if name.startswith("types-")}
        unused = (runtime | development) - used - stubs - NOT_IMPORTED
        assert not unused, f"{project} declares {unused} and does not use it"


# Part of a declared package's own interface.
TRANSITIVE = {"anyio", "starlette", "tornado"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imports(path: Path) -> set[str]:
    """Return the top-level names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found
