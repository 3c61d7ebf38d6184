"""Answers by every way in: refused with a line, or applied and recorded."""

import ast
import json
import os
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter

from tests.harness import BOOLEANS, QUESTIONS, STANDARD, TEMPLATE, generate, run

Files = dict[str, bytes | None]
Replay = Callable[..., Path]


@pytest.fixture(autouse=True)
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cookiecutter leaves its rendered hooks in the temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder that projects are written to. It has files of the user's."""
    folder = tmp_path / "output"
    (folder / "re-play").mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    (folder / "re-play/mine.txt").write_text("mine")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home directory."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def files_of(folder: Path) -> Files:
    """Return every path below a folder with what a file contains, secrets aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".env"
    }


def replay_file(folder: Path, **changes: object) -> Path:
    """Write a replay file as Cookiecutter does, with changes made by hand."""
    answers: dict[str, object] = {
        name: value[0] if isinstance(value, list) else value for name, value in QUESTIONS.items()
    }
    answers |= dict.fromkeys(BOOLEANS, False)
    answers |= {"project_name": "Re Play", "project_slug": "re-play", "database": "sqlite"}
    path = folder / "replay.json"
    path.write_text(json.dumps({"cookiecutter": answers | changes}))
    return path


@pytest.fixture
def replay(home: Path, output: Path) -> Replay:
    """A function that generates from a replay file, over what exists, and returns the project."""
    config = home / "config.yaml"
    config.write_text(json.dumps({"replay_dir": str(home), "cookiecutters_dir": str(home)}))

    def replay(**changes: object) -> Path:
        project = cookiecutter(
            str(TEMPLATE),
            replay=str(replay_file(home, **changes)),
            overwrite_if_exists=True,  # an empty slug means the output folder itself, which exists
            output_dir=str(output),
            config_file=str(config),
        )
        return Path(project)

    return replay


def refusal(capfd: pytest.CaptureFixture[str]) -> str:
    """Return the only line that the hook has printed."""
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("forge: ")]
    [line] = lines
    return line


# Invalid answers

SLUGS = [
    *["", "../escape", "/tmp/escape", "a b", "Upper", "1st", "-x", "x-", "a\nb", "é", "x" * 64],
    *["class", "app", "null", "yes"],
    *["fastapi", "pydantic_settings", "starlette", "click"],
]
VALUES = [
    *[("project_slug", 7), ("project_slug", None), ("project_name", ["x"])],
    *[("description", "bell\x07"), ("author_name", "\ud800")],
    *[("python_version", "3.11"), ("python_version", 3.13)],
    *[("database", "ftp"), ("database", ["sqlite"]), ("database", None)],
    *[("use_celery", "no"), ("use_celery", 1), ("use_redis", None), ("use_docker", "perhaps")],
]


@pytest.mark.parametrize("slug", SLUGS[1:])  # Cookiecutter refuses the empty one
def test_refuses_a_slug(cookies, capfd: pytest.CaptureFixture[str], slug: str) -> None:
    result = cookies.bake(extra_context=STANDARD | {"project_slug": slug}, template=str(TEMPLATE))
    assert result.exit_code != 0
    assert isinstance(result.exception, FailedHookException)
    assert refusal(capfd).startswith("forge: project_slug must ")


@pytest.mark.parametrize(("name", "value"), [*[("project_slug", slug) for slug in SLUGS], *VALUES])
def test_refuses_a_value_of_a_replay_file_and_touches_nothing(
    replay: Replay, output: Path, capfd: pytest.CaptureFixture[str], name: str, value: object
) -> None:
    before = files_of(output)
    with pytest.raises(FailedHookException):
        replay(**{name: value})
    assert refusal(capfd).startswith(f"forge: {name} must ")
    assert files_of(output) == before
    assert not list(output.parent.rglob("escape"))


def test_package_names_are_refused_only_where_the_package_is_used(
    cookies, capfd: pytest.CaptureFixture[str]
) -> None:
    flower = STANDARD | {"project_name": "Flower", "project_slug": "flower"}
    assert cookies.bake(extra_context=flower, template=str(TEMPLATE)).exception
    assert "name of a package" in refusal(capfd)
    without = flower | {"use_celery": False}
    assert cookies.bake(extra_context=without, template=str(TEMPLATE)).exception is None


@pytest.mark.parametrize("answer", ["project_slug=../escape", "database=ftp", "use_celery=perhaps"])
def test_command_ends_with_1_and_writes_nothing(output: Path, answer: str) -> None:
    before = files_of(output)
    result = generate(output, "--no-input", answer)
    assert result.returncode == 1
    if answer.startswith("project_slug"):
        assert result.stderr.count("forge: project_slug must ") == 1
    assert files_of(output) == before


# Names that a person would type

NAMES = {
    "Pg Tools": "pg-tools",
    "User": "user",
    "Public": "public",
    "MySQL": "mysql",
    "Postgres": "postgres",
    "Root": "root",
    "None": "none",
    "3D Printing": "project-3d-printing",
    "Über Café": "uber-cafe",
    "日本": "ri-ben",
    "🚀": "project",
    "a very long name " * 9: "a-very-long-name-a-very-long-name-a-very-long-name-a-very-long",
}


@pytest.mark.parametrize(("name", "slug"), NAMES.items())
def test_any_name_gives_a_project(cookies, name: str, slug: str) -> None:
    answers = {"project_name": name, "database": "mysql"}
    result = cookies.bake(extra_context=answers, template=str(TEMPLATE))
    assert result.exception is None
    assert result.project_path.name == slug


# An existing folder


def test_an_existing_folder_is_not_touched(output: Path) -> None:
    before = files_of(output)
    assert generate(output, "--no-input", "project_slug=re-play").returncode == 1
    assert files_of(output) == before


def test_overwriting_keeps_the_secrets_and_the_owner_s_files(replay: Replay) -> None:
    """An answer is switched off: what the template wrote for it goes, nothing else."""
    project = replay(use_celery=True, use_redis=True, use_backup=True)
    secrets = (project / ".env").read_bytes()
    (project / "app/tasks/mine.py").write_text("mine")
    (project / "app/backup/mine").mkdir()
    (project / "app/backup/mine/deep.txt").write_text("mine")
    replay()
    assert (project / ".env").read_bytes() == secrets
    assert set(files_of(project / "app/tasks")) == {"mine.py"}
    assert set(files_of(project / "app/backup")) == {"mine", "mine/deep.txt"}
    assert (project / "mine.txt").exists()
    assert not (project / "app/core/celery.py").exists()


# Valid answers

HOSTILE = [
    """It's "quoted" \\ {braces} {% raw %} #{x} ${HOME} $(id) `id`""",
    "''' + __import__('os').system('touch OWNED') + '''",
    '"""\nimport os; os.system("touch OWNED")\n"""',
    "{{ cycler.__init__.__globals__.os.popen('touch OWNED').read() }} {{ 7 * 7 }}",
    "emoji 🚀 \u2028 ünï\tcödé \U0001f468\u200d\U0001f469",
    "'; touch OWNED; '",
    "]]> <!-- & -->",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_replay_file_is_taken_literally(replay: Replay, output: Path, text: str) -> None:
    """The safe way for untrusted answers: any text gives a valid project and is not executed."""
    project = replay(description=text, author_name=text, project_name=text)
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    assert pyproject["project"]["description"] == text
    assert pyproject["project"].get("authors", [{"name": ""}]) == [{"name": text}]
    main = ast.parse((project / "app/main.py").read_text())
    assert text in {node.value for node in ast.walk(main) if isinstance(node, ast.Constant)}
    recorded = json.loads((project / ".forge.json").read_text())["cookiecutter"]
    assert recorded["project_name"] == text
    assert not [*output.parent.rglob("OWNED"), *TEMPLATE.rglob("OWNED")]
    for command in (["check"], ["format", "--check"]):
        run(sys.executable, "-m", "ruff", *command, "--no-cache", "-q", cwd=project)


def test_every_way_in_gives_the_same_project(home: Path, output: Path) -> None:
    """Celery turns Redis on, however the answers arrive."""
    answers = STANDARD | {"project_slug": "same-thing", "use_redis": False}
    trees: dict[str, Files] = {}

    def made_by(way: str, *arguments: str | Path) -> None:
        result = generate(output / way, *arguments, home=home)
        assert result.returncode == 0, result.stderr
        assert "use_redis is now yes" in result.stdout or way == "its own record"
        trees[way] = files_of(output / way / "same-thing")

    made_by("arguments", "--no-input", *(f"{name}={value}" for name, value in answers.items()))
    config = home / "config.yaml"
    config.write_text(json.dumps({"default_context": answers}))
    made_by("config file", "--no-input", "--config-file", config)
    made_by("replay", "--replay")
    saved = home / ".cookiecutter_replay" / f"{TEMPLATE.name}.json"
    edited: dict[str, Any] = json.loads(saved.read_text())
    edited["cookiecutter"]["use_redis"] = False
    (home / "edited.json").write_text(json.dumps(edited))
    made_by("replay file", "--replay-file", home / "edited.json")
    record = output / "arguments/same-thing/.forge.json"
    made_by("its own record", "--replay-file", record)
    assert json.loads(record.read_text())["cookiecutter"]["use_redis"] is True
    assert all(tree == trees["arguments"] for tree in trees.values())


def test_an_old_replay_file_lacks_a_question(home: Path, output: Path) -> None:
    """The new question is asked."""
    path = replay_file(home)
    saved = json.loads(path.read_text())
    del saved["cookiecutter"]["use_monitoring"]
    path.write_text(json.dumps(saved))
    result = generate(output, "-f", "--replay-file", path, input="yes\n")
    assert result.returncode == 0, result.stderr
    recorded = json.loads((output / "re-play/.forge.json").read_text())["cookiecutter"]
    assert recorded == saved["cookiecutter"] | {"use_monitoring": True}


def test_prompts(output: Path) -> None:
    typed = {"project_name": "Asked For", "python_version": "2", "database": "2"}
    typed |= {"use_celery": "yes", "use_redis": "no", "use_docker": "n"}
    result = generate(output, input="".join(f"{typed.get(name, '')}\n" for name in QUESTIONS))
    assert result.returncode == 0, result.stderr
    assert "Database" in result.stdout
    assert "use_redis is now yes" in result.stdout
    recorded = json.loads((output / "asked-for/.forge.json").read_text())["cookiecutter"]
    expected = {name: QUESTIONS[name][1] for name in ("python_version", "database")}
    assert recorded | expected | {"use_redis": True, "use_docker": False} == recorded


# The last message


@pytest.mark.parametrize("database", QUESTIONS["database"])
@pytest.mark.parametrize("use_docker", [True, False])
def test_next_steps(
    replay: Replay, capfd: pytest.CaptureFixture[str], database: str, use_docker: bool
) -> None:
    project = replay(database=database, use_docker=use_docker)
    steps = [line[4:] for line in capfd.readouterr().out.splitlines() if line.startswith("    ")]
    first, last = [f"cd {project}", "uv sync"], ["uv run python -m dev"]
    assert steps[:2] + steps[-1:] == first + last
    between = " ".join(steps[2:-1])
    assert ("up -d --wait db" in between) == (use_docker and database != "sqlite")
    assert ("DATABASE_URL" in between) == (not use_docker and database != "sqlite")


@pytest.mark.parametrize("stdout", ["closed pipe", "full disk", "cp1252", "none"])
def test_a_message_that_cannot_be_printed_does_not_matter(
    home: Path, tmp_path: Path, stdout: str
) -> None:
    """Cookiecutter deletes the project when a hook fails."""
    output = tmp_path / "出力"
    answers = ["use_celery=yes", "use_redis=no"]  # both hooks print something
    arguments = ["-o", str(output), "--no-input", "project_slug=my-api", *answers]
    command = shlex.join([sys.executable, "-m", "cookiecutter", str(TEMPLATE), *arguments])
    redirections = {"closed pipe": "> >(:)", "full disk": ">/dev/full", "none": ">&-"}
    # The pipe's other end is closed once its process, the last one in the background, has ended.
    script = f"exec {redirections.get(stdout, '')}; wait $!; exec {command}"
    result = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"HOME": str(home), "TMPDIR": str(home), "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (output / "my-api/.forge.json").exists()
    assert (output / "my-api/.env").read_text()
    if stdout == "cp1252":
        assert rb"\u51fa\u529b/my-api" in result.stdout
