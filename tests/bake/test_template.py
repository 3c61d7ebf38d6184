"""The template's own files agree with each other."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.bake.test_projects import WORDS_OF_ANSWER, WORDS_OF_DATABASE, files_of
from tests.bake.test_static import normal, requirements
from tests.conftest import Bake
from tests.harness import BOOLEANS, DATABASES, PROJECT, TEMPLATE, run

QUESTIONS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text())
PUBLIC = {name: value for name, value in QUESTIONS.items() if not name.startswith("_")}


def constants_of(hook: str) -> dict[str, Any]:
    """Return the literal constants of a hook, by name."""
    found = {}
    for node in ast.parse((TEMPLATE / "hooks" / hook).read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Dict):
            [target] = node.targets
            found[ast.unparse(target)] = ast.literal_eval(node.value)
    return found


def test_template_is_linted() -> None:
    for arguments in (["check"], ["format", "--check"]):
        run(sys.executable, "-m", "ruff", *arguments, cwd=TEMPLATE)


def test_hook_knows_every_question() -> None:
    hook = constants_of("pre_gen_project.py")
    assert hook["CHOICES"] == {n: value for n, value in PUBLIC.items() if isinstance(value, list)}
    booleans = [name for name, value in PUBLIC.items() if isinstance(value, bool)]
    assert hook["BOOLEANS"] == booleans
    assert list(constants_of("post_gen_project.py")["PATHS_BY_ANSWER"]) == booleans
    assert list(BOOLEANS) == booleans, "tests/harness.py"
    assert list(WORDS_OF_ANSWER) == booleans, "tests/bake/test_projects.py"
    assert all(f"`{name}`" in (TEMPLATE / "README.md").read_text() for name in PUBLIC)
    texts = {n for n, value in PUBLIC.items() if isinstance(value, str)}
    assert {*hook["TEXTS"], "project_slug"} == texts


def test_every_question_has_a_prompt() -> None:
    assert list(QUESTIONS["__prompts__"]) == list(PUBLIC)
    for name, prompt in QUESTIONS["__prompts__"].items():
        if isinstance(prompt, dict):
            assert list(prompt) == ["__prompt__", *QUESTIONS[name]]


def test_hook_knows_every_dependency(bake: Bake) -> None:
    used = set()
    for database in DATABASES:
        for texts in requirements(bake(database=database)):
            used |= {normal(re.split(r"[\[><=~; ]", text)[0]) for text in texts}
    assert set(constants_of("pre_gen_project.py")["DEPENDENCIES"]) == used


def test_hooks_use_the_standard_library_and_start_nothing() -> None:
    forbidden = {"subprocess", "socket", "urllib", "http", "ctypes", "multiprocessing"}
    for path in (TEMPLATE / "hooks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None) or node.names[0].name}
                assert names <= sys.stdlib_module_names - forbidden
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("system", "popen", "execv", "fork")


def paths_by_answer() -> dict[str, list[str]]:
    """Return the pruning tables of the hook: answer or database -> files."""
    hook = constants_of("post_gen_project.py")
    tables: dict[str, list[str]] = hook["PATHS_BY_ANSWER"] | hook["PATHS_BY_DATABASE"]
    return tables


def test_pruning_table_names_files() -> None:
    """Not folders: a folder may have files of the owner's."""
    for paths in paths_by_answer().values():
        for path in paths:
            assert (PROJECT / path).is_file(), path


@pytest.mark.parametrize("answer", [*BOOLEANS, *DATABASES])
def test_pruning_table_has_every_file_that_is_named_after_an_answer(answer: str) -> None:
    words = {**WORDS_OF_ANSWER, **WORDS_OF_DATABASE}[answer]
    for path in files_of(PROJECT):
        name = str(path.relative_to(PROJECT))
        if re.search(words, name, re.IGNORECASE):
            assert name in paths_by_answer()[answer], f"{name} is not pruned without {answer}"


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
                if "uses:" in line:
                    pin = re.search(r"uses: ([\w/-]+)@([0-9a-f]{40}  # v[\d.]+)$", line)
                    assert pin, line
                    pins.setdefault(pin[1], set()).add(pin[2])
    assert all(len(versions) == 1 for versions in pins.values()), pins


def test_workflows_are_valid(bake: Bake) -> None:
    projects = [bake(), bake(database="mysql", use_docker=False)]
    for folder in (TEMPLATE, *projects):
        files = [str(path) for path in (folder / ".github/workflows").glob("*.yml")]
        github = [str(folder / ".github/dependabot.yml")]
        for schema, paths in (("github-workflows", files), ("dependabot", github)):
            command = ["check-jsonschema", "--builtin-schema", f"vendor.{schema}", *paths]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout
