"""All 48 combinations as files: nothing is missing, and what was declined leaves nothing behind."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tests.conftest import Bake, Bakes
from tests.harness import TEMPLATE, Answers, name_of

# One process bakes them all.
pytestmark = pytest.mark.xdist_group("bakes")

# What may not occur in a project, in a name or a text, when the answer is no.
WORDS_OF_ANSWER = {
    "use_celery": r"celery|flower|redbeat|kombu|broker|beat\b|/notify|/task/\{|background (task|job)|task (id|queue)s?\b",
    "use_redis": r"redis",
    "use_backup": r"backup|isal|mysqldump|obstore",
    # Two of the object store's variables are named after containers.
    "use_docker": r"docker|compose\b|container(?!_credentials|_authorization)",
}
WORDS_OF_DATABASE = {
    "sqlite": r"sqlite",
    "postgresql": r"postgres|psycopg|\bpg_",
    "mysql": r"mysql|maria",
}


def files_of(project: Path) -> list[Path]:
    """Return all files of a project that belong into version control, and .env."""
    return sorted(
        path
        for path in project.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".venv" not in path.parts
    )


def lines_of(bakes: Bakes) -> Iterator[tuple[Answers, str]]:
    """Yield (answers, "path: text") for every path and every line, except of .forge.json."""
    for answers, project in bakes:
        for path in files_of(project):
            name = str(path.relative_to(project))
            if name == ".forge.json":  # names every answer, also those that are no
                continue
            for line in [name, *path.read_text("utf-8").splitlines()]:
                yield answers, f"{name}: {line}"


def applied(answers: Answers) -> Answers:
    """Return the answers as the template applies them."""
    return answers | {"use_redis": answers["use_redis"] or answers["use_celery"]}


def unwanted_words(answers: Answers) -> str:
    """Return a pattern for all that belongs only to answers that are no."""
    words = [words for name, words in WORDS_OF_ANSWER.items() if not applied(answers)[name]]
    words += [words for name, words in WORDS_OF_DATABASE.items() if name != answers["database"]]
    return "|".join(words)


def test_declined_answers_leave_nothing_behind(bakes: Bakes, count) -> None:
    found = {
        line: f"{line}    ({name_of(answers)})"
        for answers, line in lines_of(bakes)
        if re.search(unwanted_words(answers), line, re.IGNORECASE)
    }
    assert not found, "\n".join(sorted(found.values()))
    count("bakes", len(bakes))


def test_no_jinja_is_left(bakes: Bakes) -> None:
    jinja = re.compile(r"\{%|%\}|\{#|(?<!\$)\{\{ (?!\$)|cookiecutter\.\w+_")
    found = {line for _, line in lines_of(bakes) if jinja.search(line)}
    assert not found, "\n".join(sorted(found)[:50])


def test_no_empty_folder_and_no_stray_white_space(bakes: Bakes) -> None:
    for _, project in bakes:
        for folder, folders, files in os.walk(project):
            assert folders or files, f"{folder} is empty"
        for path in files_of(project):
            text = path.read_text("utf-8")
            if path.name == "__init__.py" and not text:
                continue
            assert text.endswith("\n"), f"{path} does not end with a line end"
            assert not text.startswith("\n"), f"{path} starts with an empty line"
            assert not text.endswith("\n\n"), f"{path} ends with an empty line"
            assert not re.search(r"[ \t]$", text, re.MULTILINE), f"{path}: trailing white space"
            assert "\n\n\n\n" not in text, f"{path}: three empty lines"
            text = re.sub(r"^ *```python\n.*?```$", "code", text, flags=re.DOTALL | re.MULTILINE)
            if path.suffix not in (".py", ".mako"):
                assert "\n\n\n" not in text, f"{path}: two empty lines"


def test_48_combinations_are_36_projects(bakes: Bakes) -> None:
    trees = {
        tuple(
            (path.relative_to(project), path.read_bytes())
            for path in files_of(project)
            if path.name != ".env"  # secrets
        )
        for _, project in bakes
    }
    assert (len(bakes), len(trees)) == (48, 36)


def test_answers_are_recorded_as_applied(bakes: Bakes) -> None:
    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    for answers, project in bakes:
        recorded = json.loads((project / ".forge.json").read_text())["cookiecutter"]
        assert list(recorded) == [name for name in questions if not name.startswith("_")]
        assert recorded | applied(answers) == recorded


def test_every_module_is_used(bakes: Bakes) -> None:
    """A module that nothing but the tests mentions is a leftover."""
    entry_points = re.compile(r"app\.main|app\.tasks\..*|.*\.__main__|.*\.__init__")
    for _, project in bakes:
        texts = {
            path: path.read_text("utf-8")
            for path in files_of(project)
            if path.relative_to(project).parts[0] != "tests"
        }
        for path in project.glob("app/**/*.py"):
            module = ".".join(path.relative_to(project).with_suffix("").parts)
            if entry_points.fullmatch(module):
                continue
            package, _, name = module.rpartition(".")
            mention = re.compile(
                rf"{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{name}\b"
                rf"|from {re.escape(package)} import \([^)]*\b{name}\b|from \. import [^\n]*\b{name}\b"
            )
            users = [user for user, text in texts.items() if user != path and mention.search(text)]
            assert users, f"{path} is not used"


def test_secrets_are_fresh_and_only_in_env(bake: Bake) -> None:
    project, other = bake(database="postgresql"), bake(database="postgresql")
    env, other_env = (dotenv_values(one / ".env", interpolate=False) for one in (project, other))
    secrets = {name: value for name, value in env.items() if value != other_env[name]}
    assert {"SECRET_KEY", "DATABASE_PASSWORD"} <= set(secrets)
    assert all(len(value or "") >= 43 for value in secrets.values())
    assert (project / ".env").stat().st_mode & 0o777 == 0o600
    assert ".env" in (project / ".gitignore").read_text().splitlines()
    example = dotenv_values(project / ".env.example")
    assert not any(example[name] for name in secrets)
    for path in files_of(project):
        if path.name != ".env":
            assert not any(str(value) in path.read_text("utf-8") for value in secrets.values())
