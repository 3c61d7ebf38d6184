"""Good answers by every way in, and bad ones: one line, exit code 1, nothing written or deleted."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import TEMPLATE, Bake
from tests.test_static import normal, requirements


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder that projects are written to, with something of the user's in it."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    return folder


def generate(home: Path, output: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the ``cookiecutter`` command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "cookiecutter", TEMPLATE, "-o", output, *arguments],
        env=os.environ | {"HOME": str(home), "TMPDIR": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return every name below a folder, with what a file holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def tree(project: Path) -> dict[str, bytes | None]:
    """Return a project's content without its secrets."""
    return {name: data for name, data in snapshot(project).items() if name != ".env"}


def replay_file(folder: Path, **changes: object) -> Path:
    """Write a replay file as Cookiecutter does, with changes made by hand."""
    answers: dict[str, object] = {
        "project_name": "Re Play",
        "project_slug": "re-play",
        "description": "d",
        "author_name": "a",
        "python_version": "3.13",
        "database": "sqlite",
        "use_celery": False,
        "use_redis": False,
        "use_backup": False,
        "use_docker": False,
    }
    path = folder / "replay.json"
    path.write_text(json.dumps({"cookiecutter": answers | changes}))
    return path


SLUGS = ["../escape", "/tmp/escape", "a b", "Upper", "1st", "-x", "x-", "class", "app", "a\nb",
         "celery", "pydantic_settings", "é"]  # fmt: skip


@pytest.mark.parametrize("slug", SLUGS)
def test_bad_slug(home: Path, output: Path, slug: str) -> None:
    before = snapshot(output.parent)
    result = generate(home, output, "--no-input", f"project_slug={slug}")
    assert_refused(result, "project_slug")
    assert without_home(snapshot(output.parent)) == without_home(before)


def without_home(names: dict[str, bytes | None]) -> dict[str, bytes | None]:
    return {name: data for name, data in names.items() if not name.startswith("home")}


def assert_refused(result: subprocess.CompletedProcess[str], name: str) -> None:
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("forge: ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"forge: {name} must ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("project_slug", ""),
        ("project_slug", 7),
        ("project_slug", None),
        ("project_name", ["x"]),
        ("description", "bell\x07"),
        ("python_version", "2.7"),
        ("python_version", 3.13),
        ("database", "ftp"),
        ("database", ["sqlite"]),
        ("database", None),
        ("use_celery", "no"),
        ("use_celery", 1),
        ("use_redis", None),
        ("use_backup", "yes"),
        ("use_docker", "perhaps"),
    ],
)
def test_bad_value_in_a_replay_file(home: Path, output: Path, name: str, value: object) -> None:
    before = snapshot(output)
    path = replay_file(home, **{name: value})
    # -f: an empty slug means the output folder itself, which exists.
    result = generate(home, output, "-f", "--replay-file", path)
    assert_refused(result, name)
    assert snapshot(output) == before


def test_what_cookiecutter_refuses_itself_writes_nothing(home: Path, output: Path) -> None:
    before = snapshot(output)
    for answer in ("database=ftp", "use_celery=perhaps"):
        assert generate(home, output, "--no-input", answer).returncode != 0
    assert snapshot(output) == before


def test_existing_folder_is_not_touched(home: Path, output: Path) -> None:
    (output / "my-api").mkdir()
    (output / "my-api/mine.txt").write_text("mine")
    before = snapshot(output)
    assert generate(home, output, "--no-input").returncode != 0
    assert snapshot(output) == before


def test_bad_answer_with_overwriting_deletes_nothing(home: Path, output: Path) -> None:
    (output / "re-play").mkdir()
    (output / "re-play/mine.txt").write_text("mine")
    before = snapshot(output)
    path = replay_file(home, database="ftp")
    assert_refused(generate(home, output, "-f", "--replay-file", path), "database")
    assert snapshot(output) == before


def test_overwriting_keeps_the_secrets(home: Path, output: Path) -> None:
    assert generate(home, output, "--no-input").returncode == 0
    secrets = (output / "my-api/.env").read_bytes()
    assert generate(home, output, "--no-input", "-f").returncode == 0
    assert (output / "my-api/.env").read_bytes() == secrets


HOSTILE = [
    """It's "quoted" \\ {braces} {% raw %} #{x} ${HOME} $(id) `id`""",
    "''' + __import__('os').system('touch OWNED') + '''",
    '"""\nimport os; os.system("touch OWNED")\n"""',
    "{{ cookiecutter.__class__ }} {{ 7 * 7 }}",
    "emoji 🚀 \u2028 ünï\tcödé \U0001f468\u200d\U0001f469",
    "'; touch OWNED; '",
    "]]> <!-- & -->",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_gives_a_valid_project_and_is_never_run(
    home: Path, output: Path, text: str
) -> None:
    path = replay_file(home, description=text, author_name=text, project_name=text)
    result = generate(home, output, "--replay-file", path)
    assert result.returncode == 0, result.stderr
    project = output / "re-play"
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    assert pyproject["project"]["description"] == text
    assert pyproject["project"].get("authors", [{"name": ""}]) == [{"name": text}]
    calls = [
        node
        for node in ast.walk(ast.parse((project / "app/main.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "FastAPI"
    ]
    keywords = {keyword.arg: keyword.value for keyword in calls[0].keywords}
    assert ast.literal_eval(keywords["title"]) == text
    assert ast.literal_eval(keywords["description"]) == text
    assert not list(output.parent.rglob("OWNED"))
    for command in (["check"], ["format", "--check"]):
        lint = subprocess.run(["ruff", *command, "--no-cache", "-q"], cwd=project, check=False, text=True,
                              capture_output=True)  # fmt: skip
        assert lint.returncode == 0, lint.stdout


ANSWERS = {"project_name": "Same Thing", "database": "postgresql", "use_redis": False}


def test_every_way_in_gives_the_same_project(home: Path, output: Path, tmp_path: Path) -> None:
    """Celery turns Redis on, whichever way the answers come."""
    trees = {}

    def made_by(way: str, *arguments: str | Path) -> None:
        folder = output / way
        result = generate(home, folder, *arguments)
        assert result.returncode == 0, result.stderr
        assert "use_redis is now yes" in result.stdout or way == "its own record"
        trees[way] = tree(folder / "same-thing")

    made_by("arguments", "--no-input", *(f"{name}={value}" for name, value in ANSWERS.items()))
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"default_context": ANSWERS}))
    made_by("config file", "--no-input", "--config-file", config)
    made_by("replay", "--replay")
    replay = home / ".cookiecutter_replay" / f"{TEMPLATE.name}.json"
    edited = json.loads(replay.read_text())
    edited["cookiecutter"]["use_redis"] = False
    (tmp_path / "old.json").write_text(json.dumps(edited))
    made_by("replay file", "--replay-file", tmp_path / "old.json")
    record = output / "arguments/same-thing/.forge.json"
    made_by("its own record", "--replay-file", record)
    assert json.loads(record.read_text())["cookiecutter"]["use_redis"] is True
    assert len({str(sorted(names.items())) for names in trees.values()}) == 1


def test_prompts(home: Path, output: Path) -> None:
    """Answered by hand: the questions are readable, and Celery turns Redis on."""
    answers = ["Asked For", "", "", "", "2", "2", "yes", "no", "n", "n"]
    result = subprocess.run(
        [sys.executable, "-m", "cookiecutter", TEMPLATE, "-o", output],
        env=os.environ | {"HOME": str(home), "TMPDIR": str(home)},
        input="\n".join([*answers, ""]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Database" in result.stdout
    assert "use_redis is now yes" in result.stdout
    recorded = json.loads((output / "asked-for/.forge.json").read_text())["cookiecutter"]
    assert recorded["python_version"] == "3.13"
    assert recorded["database"] == "postgresql"
    assert recorded["use_redis"] is True
    assert recorded["use_docker"] is False


def hook_names() -> dict[str, object]:
    """Return the tables of the pre_gen hook, by name."""
    source = (TEMPLATE / "hooks/pre_gen_project.py").read_text()
    names = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper() and name != "ANSWERS":
                names[name] = ast.literal_eval(node.value)
    return names


def test_hook_and_questions_agree() -> None:
    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    tables = hook_names()
    public = {name: value for name, value in questions.items() if not name.startswith("_")}
    choices = {name: value for name, value in public.items() if isinstance(value, list)}
    assert tables["CHOICES"] == choices
    assert tables["BOOLEANS"] == [name for name, value in public.items() if value is True]
    assert {*tables["TEXTS"], "project_slug"} == {
        name for name, value in public.items() if isinstance(value, str)
    }


def test_hook_knows_every_dependency(bake: Bake) -> None:
    used = set()
    for database in ("sqlite", "postgresql", "mysql"):
        for texts in requirements(bake(database=database)):
            used |= {normal(re.split(r"[\[><=~ ]", text)[0]) for text in texts}
    assert set(hook_names()["DEPENDENCIES"]) == used


def test_hooks_use_the_standard_library_and_start_nothing() -> None:
    forbidden = {"subprocess", "socket", "urllib", "http", "ctypes", "multiprocessing"}
    for path in (TEMPLATE / "hooks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None) or node.names[0].name}
                assert names <= sys.stdlib_module_names - forbidden
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("system", "popen", "execv", "fork")
