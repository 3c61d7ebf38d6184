"""The template's own files agree with each other."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template
from jsonschema import Draft202012Validator

from tests.bake.conftest import requirements
from tests.bake.test_projects import WORDS, normal
from tests.conftest import Bake
from tests.harness import (
    BOOLEANS,
    DATABASES,
    PROJECT,
    QUESTIONS,
    STANDARD,
    TEMPLATE,
    Answers,
    files_of,
    run,
)

HOOK = "hooks/pre_gen_project.py"
PRUNING = "hooks/post_gen_project.py"


def constants_of(hook: str) -> dict[str, Any]:
    """Return the literal constants of a hook, by name."""
    found = {}
    for node in ast.parse((TEMPLATE / hook).read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Dict):
            try:
                found[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def test_template_is_linted() -> None:
    for arguments in (["check"], ["format", "--check"]):
        run(sys.executable, "-m", "ruff", *arguments, cwd=TEMPLATE)


# A new question


def test_hook_validates_every_question() -> None:
    hook = constants_of(HOOK)
    choices = {name: set(value) for name, value in QUESTIONS.items() if isinstance(value, list)}
    texts = [name for name, value in QUESTIONS.items() if isinstance(value, str)]
    known = {name: set(value) for name, value in hook["CHOICES"].items()}
    assert choices == known, f"CHOICES in {HOOK}"
    assert hook["BOOLEANS"] == BOOLEANS, f"BOOLEANS in {HOOK}"
    assert {*hook["TEXTS"], "project_slug"} == set(texts), f"TEXTS in {HOOK}"


def test_every_question_is_asked_and_explained() -> None:
    prompts = json.loads((TEMPLATE / "cookiecutter.json").read_text())["__prompts__"]
    readme = (TEMPLATE / "README.md").read_text()
    for name, value in QUESTIONS.items():
        assert name in prompts, f"{name} has no prompt in cookiecutter.json"
        if isinstance(value, list):
            labels = set(prompts[name])
            assert labels == {"__prompt__", *value}, f"the prompt of {name} in cookiecutter.json"
        assert f"`{name}`" in readme, f"{name} has no row in README.md"


def test_every_answer_is_recorded(bake: Bake) -> None:
    recorded = json.loads((bake() / ".forge.json").read_text())["cookiecutter"]
    assert list(recorded) == list(QUESTIONS), f"the list in {PROJECT.name}/.forge.json"


def test_every_feature_can_be_declined() -> None:
    pruned = constants_of(PRUNING)["PATHS_BY_ANSWER"]
    for name in BOOLEANS:
        assert name in pruned, f"{name} is not in PATHS_BY_ANSWER of {PRUNING}"
    for name in DATABASES:
        assert name in WORDS, f"{name} is not in WORDS of tests/bake/test_projects.py"


def test_pruning_table_names_files() -> None:
    """Not folders: a folder may have files of the owner's."""
    tables = constants_of(PRUNING)
    paths = [path for paths in tables["PATHS_BY_ANSWER"].values() for path in paths]
    for path in [*paths, *tables["DATABASES_BY_PATH"]]:
        assert (PROJECT / path).is_file(), f"{PRUNING} names {path}"


@pytest.mark.parametrize("answer", BOOLEANS)
def test_files_that_are_named_after_an_answer_go_with_it(answer: str) -> None:
    paths = constants_of(PRUNING)["PATHS_BY_ANSWER"].get(answer, [])
    variants = tuple(constants_of(PRUNING)["VARIANTS"])
    assert answer in WORDS, f"{answer} is not in WORDS of tests/bake/test_projects.py"
    for path in files_of(PROJECT):
        name = str(path.relative_to(PROJECT))
        if re.search(WORDS[answer], name, re.IGNORECASE) and not name.startswith(variants):
            assert name in paths, f"{name} stays without {answer}: {PRUNING}"


def test_schema_of_answers_knows_every_question() -> None:
    schema = json.loads((TEMPLATE / "answers.schema.json").read_text())
    answers = schema["$defs"]["answers"]["properties"]
    required = schema["properties"]["cookiecutter"]["required"]
    assert set(answers) == set(required) == set(QUESTIONS), "answers.schema.json"
    for name, value in QUESTIONS.items():
        if isinstance(value, list):
            assert set(answers[name]["enum"]) == set(value), f"{name} in answers.schema.json"
        else:
            assert answers[name].get("type", "string") == TYPES[type(value)], f"{name}"


TYPES = {bool: "boolean", str: "string"}

VALID: dict[str, Any] = {
    name: value[0] if isinstance(value, list) else value for name, value in QUESTIONS.items()
} | STANDARD
CHANGES: list[dict[str, Any]] = [
    {},
    {"project_name": "", "description": "emoji \U0001f680 {{ 7 }}\ttab\nline"},
    {"project_slug": "a"},
    {"project_slug": "pg-tools"},
    {"project_slug": "x" * 63},
    {"project_slug": "x" * 64},
    {"project_slug": ""},
    {"project_slug": "../escape"},
    {"project_slug": "x-"},
    {"project_slug": "1st"},
    {"project_slug": "a\n"},
    {"project_slug": "app"},
    {"project_slug": "class"},
    {"project_slug": 7},
    {"description": "bell\x07"},
    {"author_name": None},
    {"database": "oracle"},
    {"python_version": 3.12},
    {"use_celery": "perhaps"},
    {"use_docker": 1},
]


@pytest.mark.parametrize("change", CHANGES, ids=repr)
def test_schema_of_answers_refuses_what_the_hook_refuses(
    change: dict[str, Any], tmp_path: Path
) -> None:
    answers = VALID | change
    schema = json.loads((TEMPLATE / "answers.schema.json").read_text())
    errors = list(Draft202012Validator(schema).iter_errors({"cookiecutter": answers}))
    refused = functions_of_hook()["validate_answers"](answers)
    assert bool(errors) == bool(refused), (errors, refused)


def functions_of_hook() -> dict[str, Any]:
    """Return the functions of the hook that validates."""
    code = Template((TEMPLATE / HOOK).read_text()).render(cookiecutter=VALID)
    namespace: dict[str, Any] = {}
    exec(compile(code, HOOK, "exec"), namespace)
    return namespace


# Names of packages


def test_direct_dependencies_are_refused_as_names(answers: Answers, project: Path) -> None:
    direct = {normal(re.split(r"[\[><=~; ]", t)[0]) for t in set().union(*requirements(project))}
    known = functions_of_hook()["packages_of"](answers)
    assert not direct - known, f"PACKAGES in {HOOK}"


# Hooks, versions, workflows


def test_hooks_use_the_standard_library_and_start_nothing() -> None:
    forbidden = {"subprocess", "socket", "urllib", "http", "ctypes", "multiprocessing"}
    for path in (TEMPLATE / "hooks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None) or node.names[0].name}
                assert names <= sys.stdlib_module_names - forbidden
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("system", "popen", "execv", "fork")


def test_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]["version"]
    record = (PROJECT / ".forge.json").read_text()
    assert f'"forge_version": "{version}"' in record
    released = re.findall(r"^## \[?([0-9.]+)", (TEMPLATE / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == version


def test_actions_are_pinned_with_their_version_as_a_comment() -> None:
    """And the same everywhere: Dependabot does not find the workflow of the generated project."""
    pins: dict[str, set[str]] = {}
    for folder in (TEMPLATE, PROJECT):
        for path in (folder / ".github/workflows").glob("*.yml"):
            for line in path.read_text().splitlines():
                if "uses: ./" not in line and "uses:" in line:
                    pin = re.search(r"uses: ([\w/-]+)@([0-9a-f]{40}  # v[\d.]+)$", line)
                    assert pin, f"{path.relative_to(TEMPLATE)}: {line}"
                    pins.setdefault(pin[1], set()).add(pin[2])
    assert all(len(versions) == 1 for versions in pins.values()), pins


def test_workflows_are_valid(bake: Bake) -> None:
    projects = [bake(), bake(database="mysql", use_docker=False)]
    files: dict[str, list[Path]] = {"github-workflows": [], "dependabot": []}
    for folder in (TEMPLATE, *projects):
        files["github-workflows"] += (folder / ".github/workflows").glob("*.yml")
        files["dependabot"] += (folder / ".github").glob("dependabot.yml")
    for schema, paths in files.items():
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
        result = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout
