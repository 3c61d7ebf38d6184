"""Every combination of answers, as files: nothing missing, nothing left over."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import BOOLEANS, DATABASES, PROJECT, TEMPLATE, Answers, Bake

# One process bakes them all.
pytestmark = pytest.mark.xdist_group("bakes")

Bakes = list[tuple[Answers, Path]]

# What may stand nowhere in a project, name or text, when the answer is no.
WORDS_OF_ANSWER = {
    "use_celery": r"celery|flower|redbeat|kombu|broker|beat\b|/notify|/task/\{",
    "use_redis": r"redis",
    "use_backup": r"backup|isal|pg_dump|mysqldump|retention",
    "use_docker": r"docker|compose\b|container",
}
WORDS_OF_DATABASE = {
    "sqlite": r"sqlite",
    "postgresql": r"postgres|psycopg|\bpg_",
    "mysql": r"mysql|maria",
}


def files_of(project: Path) -> list[Path]:
    return sorted(path for path in project.rglob("*") if path.is_file())


def unwanted_words(answers: Answers) -> re.Pattern[str]:
    """Return a pattern for all that belongs only to answers that are no."""
    applied = answers | {"use_redis": answers["use_redis"] or answers["use_celery"]}
    words = [words for name, words in WORDS_OF_ANSWER.items() if not applied[name]]
    words += [words for name, words in WORDS_OF_DATABASE.items() if name != answers["database"]]
    return re.compile("|".join(words), re.IGNORECASE)


def test_off_means_gone(bakes: Bakes, count) -> None:
    found = []
    for answers, project in bakes:
        unwanted = unwanted_words(answers)
        for path in files_of(project):
            name = path.relative_to(project)
            if name == Path(".forge.json"):  # names every answer, also those that are no
                continue
            lines = [str(name), *path.read_text(encoding="utf-8").splitlines()]
            found += [f"{project} {name}: {line}" for line in lines if unwanted.search(line)]
    assert not found, "\n".join(found[:50])
    count("bakes", len(bakes))


def test_no_template_text_is_left(bakes: Bakes) -> None:
    pattern = re.compile(r"\{%|%\}|\{#|#\}|(?<!\$)\{\{(?!\")|cookiecutter", re.IGNORECASE)
    found = [
        f"{path}: {line}"
        for _, project in bakes
        for path in files_of(project)
        if path.name != ".forge.json"
        for line in [str(path.relative_to(project)), *path.read_text().splitlines()]
        if pattern.search(line)
    ]
    assert not found, "\n".join(found[:50])


def test_no_empty_folder_and_no_stray_white_space(bakes: Bakes) -> None:
    for _, project in bakes:
        for folder, folders, files in os.walk(project):
            assert folders or files, f"{folder} is empty"
        for path in files_of(project):
            text = path.read_text()
            if path.name == "__init__.py" and not text:
                continue
            assert text.endswith("\n"), f"{path} does not end with a line end"
            assert not text.startswith("\n"), f"{path} starts with an empty line"
            assert not text.endswith("\n\n"), f"{path} ends with an empty line"
            assert not re.search(r"[ \t]$", text, re.MULTILINE), f"{path}: white space at the end"
            assert "\n\n\n\n" not in text, f"{path}: three empty lines"
            text = re.sub(r"^ *```python\n.*?```$", "code", text, flags=re.DOTALL | re.MULTILINE)
            if path.suffix not in (".py", ".mako"):
                assert "\n\n\n" not in text, f"{path}: two empty lines"


def test_48_combinations_are_36_projects(bakes: Bakes) -> None:
    assert len(bakes) == 48
    # .env differs by its secrets, .forge.json by nothing that the files do not show.
    trees = {
        tuple((path.relative_to(project), path.read_bytes()) for path in files_of(project)
              if path.name != ".env")
        for _, project in bakes
    }  # fmt: skip
    assert len(trees) == 36


def test_answers_are_recorded_as_applied(bakes: Bakes) -> None:
    version = re.search(r'^version = "(.+)"$', (TEMPLATE / "pyproject.toml").read_text(), re.M)
    assert version
    for answers, project in bakes:
        record = json.loads((project / ".forge.json").read_text())
        assert record["forge_version"] == version[1]
        recorded = record["cookiecutter"]
        assert list(recorded) == [
            name for name in json.loads((TEMPLATE / "cookiecutter.json").read_text())
            if not name.startswith("_")
        ]  # fmt: skip
        expected = answers | {"use_redis": answers["use_redis"] or answers["use_celery"]}
        assert {name: recorded[name] for name in expected} == expected


def test_secrets_are_fresh_and_only_in_env(bake: Bake) -> None:
    env, other = (read_env(bake(database="postgresql")) for _ in range(2))
    secrets = [name for name, value in env.items() if value != other[name]]
    assert {"SECRET_KEY", "DATABASE_PASSWORD"} <= set(secrets)
    assert all(len(env[name]) >= 43 for name in secrets)
    project = bake(database="postgresql")
    assert (project / ".env").stat().st_mode & 0o777 == 0o600
    assert ".env" in (project / ".gitignore").read_text().splitlines()
    example = read_env(project, ".env.example")
    assert not any(example[name] for name in secrets)
    values = {value for name, value in read_env(project).items() if name in secrets}
    for path in files_of(project):
        if path.name != ".env":
            assert not any(value in path.read_text() for value in values)


def read_env(project: Path, name: str = ".env") -> dict[str, str]:
    lines = (project / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def owned_paths() -> dict[str, list[str]]:
    """Return the pruning table of the hook: answer or database -> paths."""
    tree = ast.parse((TEMPLATE / "hooks/post_gen_project.py").read_text())
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id.startswith("PATHS_BY")
    }
    return tables["PATHS_BY_ANSWER"] | tables["PATHS_BY_DATABASE"]


def test_every_path_in_the_pruning_table_exists() -> None:
    for paths in owned_paths().values():
        for path in paths:
            assert (PROJECT / path).is_file(), path


@pytest.mark.parametrize("answer", [*BOOLEANS, *DATABASES])
def test_pruning_table_has_every_file_that_only_one_answer_needs(answer: str) -> None:
    """A file whose text speaks of an answer in its first line of documentation belongs to it."""
    words = {**WORDS_OF_ANSWER, **WORDS_OF_DATABASE}[answer]
    owned = owned_paths()[answer]
    for path in files_of(PROJECT):
        name = str(path.relative_to(PROJECT))
        if re.search(words, name, re.IGNORECASE):
            under = any(name == entry or name.startswith(f"{entry}/") for entry in owned)
            assert under, f"{name} is not in the pruning table under {answer}"
