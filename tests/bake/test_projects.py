"""Every combination as files: nothing is missing, and what was declined leaves nothing behind."""

import ast
import json
import os
import re
import subprocess
import sys
from concurrent.futures import Future
from functools import cache
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.bake.conftest import Bakes, mypy, python_code, requirements
from tests.conftest import Bake
from tests.harness import (
    Answers,
    applied,
    code_blocks,
    combinations,
    files_of,
    generate,
    project_environment,
    run,
)

# What may not occur in a project, in a name or a text, when the answer is no, or another database.
WORDS = {
    "use_celery": r"celery|flower|kombu|broker|beat\b|/notify|/task/\{|background (task|job)"
    r"|task (id|queue)s?\b|/admin\b",
    "use_redis": r"redis",
    "use_backup": r"backup|isal|mysqldump|obstore|pyrage",
    # Two of the object store's variables are named after containers.
    "use_docker": r"docker|compose\b|container(?!_credentials|_authorization)",
    "use_monitoring": r"prometheus|grafana|promtool|/metrics|METRICS_",
    "sqlite": r"sqlite",
    "postgresql": r"postgres|psycopg|\bpg_",
    "mysql": r"mysql|maria",
}
# The template's own Jinja. (The project has templates of its own.)
JINJA = re.compile(r"cookiecutter[.\[]|\{%-? *(end)?raw")
# Declared, but used by name or by another package, not by an import.
NOT_IMPORTED = {
    "email-validator",  # Pydantic's, for EmailStr
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
# Part of a declared package's own interface.
TRANSITIVE = {"anyio", "jinja2", "starlette", "tornado"}


def texts_of(project: Path) -> dict[str, str]:
    """Return the text of every file, except of the record, which names every answer."""
    return {
        str(path.relative_to(project)): path.read_text("utf-8")
        for path in files_of(project)
        if path.name != ".forge.json"
    }


def unwanted(answers: Answers) -> re.Pattern[str]:
    """Return a pattern for all that belongs only to answers that are no."""
    given = applied(answers)
    declined = [name for name in WORDS if given.get(name, name == given["database"]) is False]
    return re.compile("|".join(WORDS[name] for name in declined), re.IGNORECASE)


def test_declined_answers_leave_nothing_behind(answers: Answers, project: Path) -> None:
    pattern = unwanted(answers)
    found = []
    for name, text in texts_of(project).items():
        if pattern.search(f"{name}\n{text}"):
            lines = [f"{name}:{n}: {line}" for n, line in enumerate(text.splitlines(), 1)]
            found += [line for line in [name, *lines] if pattern.search(line)]
    assert not found, "\n".join(found)


def test_files_are_tidy(project: Path) -> None:
    for folder, folders, files in os.walk(project):
        assert folders or files, f"{folder} is empty"
    for name, text in texts_of(project).items():
        if name.endswith("__init__.py") and not text:
            continue
        assert not JINJA.search(text), f"{name}: Jinja is left"
        assert text.endswith("\n"), f"{name} does not end with a line end"
        assert not text.startswith("\n"), f"{name} starts with an empty line"
        assert not text.endswith("\n\n"), f"{name} ends with an empty line"
        assert not re.search(r"[ \t]$", text, re.MULTILINE), f"{name}: trailing white space"
        assert "\n\n\n\n" not in text, f"{name}: three empty lines"
        text = re.sub(r"^ *```python\n.*?```$", "code", text, flags=re.DOTALL | re.MULTILINE)
        if not name.endswith((".py", ".mako")):
            assert "\n\n\n" not in text, f"{name}: two empty lines"


def test_ruff(project: Path, lint: list[str]) -> None:
    prefix = f"{project}/"
    found = [line.replace(prefix, "") for line in lint if prefix in line]
    assert not found, "\n".join(found)


def test_types_of_files_that_look_alike(tools: Path, tmp_path: Path) -> None:
    """One cache for all projects hides no error and invents none."""
    found = {}
    for name, value in {"right": "2.0", "wrong": "'a'", "right again": "3.0"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "mypy.ini").write_text("[mypy]\nfiles = module.py\n")
        (tmp_path / name / "module.py").write_text(f"number: float = {value}\n")
        os.utime(tmp_path / name / "module.py", (0, 0))
        found[name] = mypy(tools / "mypy", tmp_path / name, tmp_path / "cache")
    assert found["right"] == found["right again"] == []
    assert "module.py:1: error: Incompatible types" in found["wrong"][0]


def test_types(project: Path, types: dict[str, Future[list[str]]]) -> None:
    found = types[python_code(project)].result()
    assert not found, "\n".join(found)


def test_answers_are_recorded_as_applied(answers: Answers, project: Path) -> None:
    recorded = json.loads((project / ".forge.json").read_text())["cookiecutter"]
    assert recorded | applied(answers) == recorded


def test_every_module_is_used(project: Path) -> None:
    """A module that nothing but the tests mentions is a leftover."""
    entry_points = re.compile(r"app\.main|app\.users|app\.tasks\..*|.*\.__main__|.*\.__init__")
    texts = {name: text for name, text in texts_of(project).items() if not name.startswith("tests")}
    for path in project.glob("app/**/*.py"):
        name = path.relative_to(project)
        module = ".".join(name.with_suffix("").parts)
        if entry_points.fullmatch(module):
            continue
        package, _, last = module.rpartition(".")
        mention = re.compile(
            rf"{re.escape(module)}\b|from ({re.escape(package)}|\.) import [^\n]*\b{last}\b"
            rf"|from {re.escape(package)} import \([^)]*\b{last}\b"
        )
        users = [user for user, text in texts.items() if user != str(name) and mention.search(text)]
        assert users, f"{name} is not used"


def test_dependencies_are_declared_and_used(
    project: Path, distributions: dict[str, set[str]]
) -> None:
    runtime, development = (
        {normal(re.split(r"[\[><=~ ]", text)[0]) for text in texts}
        for texts in requirements(project)
    )
    used = set()
    for path in project.rglob("*.py"):
        name = path.relative_to(project)
        allowed = runtime if name.parts[0] in ("app", "migrations") else runtime | development
        for module in imports(path.read_text()):
            names = distributions.get(module, set())
            used |= names
            local = (project / module).is_dir() or module in sys.stdlib_module_names
            assert local or names & (allowed | TRANSITIVE), f"{name} imports {module}"
    stubs = {name for name in development if name.startswith("types-")}
    unused = (runtime | development) - used - stubs - NOT_IMPORTED
    assert not unused, f"pyproject.toml declares {unused} and nothing uses it"


@pytest.fixture(scope="session")
def distributions(tools: Path) -> dict[str, set[str]]:
    """The distributions that each module is from."""
    code = "import importlib.metadata as m, json; print(json.dumps(m.packages_distributions()))"
    found = json.loads(run(tools / "python", "-c", code, cwd=tools))
    return {module: {normal(name) for name in names} for module, names in found.items()}


def normal(name: str) -> str:
    """Return a distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def imports(code: str) -> set[str]:
    """Return the top-level names of the modules that code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_secrets_are_only_in_env(project: Path) -> None:
    values, example = (
        dotenv_values(project / name, interpolate=False) for name in (".env", ".env.example")
    )
    secrets = [str(values[name]) for name in values if not example[name]]
    assert "SECRET_KEY" in values
    assert values["SECRET_KEY"] in secrets
    assert all(len(secret) >= 43 for secret in secrets)
    assert (project / ".env").stat().st_mode & 0o777 == 0o600
    assert ".env" in (project / ".gitignore").read_text().splitlines()
    for name, text in texts_of(project).items():
        assert name == ".env" or not [secret for secret in secrets if secret in text], name


def test_every_line_for_env_is_a_setting(bakes: Bakes, tools: Path) -> None:
    """Those of .env.example that are comments, and those of the pages, with no warning."""
    for name, (answers, project) in bakes.items():
        if len({value for value in answers.values() if isinstance(value, bool)}) > 1:
            continue
        before = (project / ".env").read_text()
        lines = re.sub(r"^# (?=[A-Z_]+=)", "", before, flags=re.MULTILINE)
        for page in project.glob("docs/*.md"):
            blocks = code_blocks(page.read_text(), "")
            lines += "".join(block for block in blocks if re.match("[A-Z_]+=", block))
        assert lines.count("\nCOMPOSE_FILE=") == answers["use_docker"]
        (project / ".env").write_text(lines)
        result = subprocess.run(
            [tools / "python", "-c", "import app.core.config.settings"],
            cwd=project,
            env=project_environment(project),
            capture_output=True,
            text=True,
            check=False,
        )
        (project / ".env").write_text(before)
        assert result.stdout + result.stderr == "", name


def test_secrets_are_fresh(bake: Bake) -> None:
    first, second = (dotenv_values(bake(database="postgresql") / ".env") for _ in range(2))
    assert first["SECRET_KEY"] != second["SECRET_KEY"]
    assert first["DATABASE_PASSWORD"] != second["DATABASE_PASSWORD"]


def content(project: Path) -> list[tuple[Path, bytes]]:
    """Return the files of a project with what they contain, secrets aside."""
    return [
        (path.relative_to(project), path.read_bytes())
        for path in files_of(project)
        if path.name != ".env"
    ]


def test_combinations_that_differ_in_nothing_but_redis_with_celery_are_one(bakes: Bakes) -> None:
    projects: dict[tuple[object, ...], list[tuple[Path, bytes]]] = {}
    for answers, project in bakes.values():
        same = projects.setdefault(tuple(applied(answers).items()), content(project))
        assert content(project) == same
    different = [str(tree) for tree in projects.values()]
    assert len(set(different)) == len(projects)
    if len(bakes) == len(combinations()):
        assert len(projects) * 4 == len(bakes) * 3  # With Celery, Redis is on.


def test_its_own_record_gives_the_same_project(bakes: Bakes, tmp_path: Path) -> None:
    """Byte for byte, for each database with everything and with nothing."""
    for name, (answers, project) in bakes.items():
        if len({value for value in answers.values() if isinstance(value, bool)}) == 1:
            result = generate(tmp_path / name, "--replay-file", project / ".forge.json")
            assert result.returncode == 0, result.stderr
            assert content(tmp_path / name / project.name) == content(project), name
