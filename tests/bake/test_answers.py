"""Answers by every way in, given to the ``cookiecutter`` command as a user does."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import TEMPLATE, generate

Completed = subprocess.CompletedProcess[str]
Cookiecutter = Callable[..., Completed]
Files = dict[str, bytes | None]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder that projects are written to. It has a file of the user's."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home directory."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def cookiecutter(home: Path, output: Path) -> Cookiecutter:
    """A function that runs the command in these folders."""
    return lambda *arguments, **options: generate(output, *arguments, home=home, **options)


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


def assert_refused(result: Completed, name: str) -> None:
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("forge: ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"forge: {name} must ")


# Invalid answers


@pytest.mark.parametrize(
    "slug",
    ["", "../escape", "/tmp/escape", "a b", "Upper", "1st", "-x", "x-", "class", "app", "a\nb", "é"]
    + ["celery", "pydantic_settings", "postgres", "mysql", "pg-one", "public", "none", "null"]
    + ["x" * 64, 7, None],
)
def test_refuses_a_slug(cookiecutter: Cookiecutter, output: Path, slug: object) -> None:
    before = files_of(output.parent)
    path = replay_file(output.parent / "home", project_slug=slug)
    # -f: an empty slug means the output folder itself, which exists.
    assert_refused(cookiecutter("-f", "--replay-file", path), "project_slug")
    after = files_of(output.parent)
    assert {name for name in after if not name.startswith("home")} == {
        name for name in before if not name.startswith("home")
    }


def test_refuses_a_slug_that_is_too_long_for_the_database(
    cookiecutter: Cookiecutter, output: Path
) -> None:
    slug = "customer-relationship-service-backend"
    answers = ["--no-input", f"project_slug={slug}"]
    assert_refused(cookiecutter(*answers, "database=mysql"), "project_slug")
    assert cookiecutter(*answers, "database=postgresql").returncode == 0
    assert set(files_of(output)) >= {"mine.txt", slug}


def test_refuses_a_slug_given_as_an_argument(cookiecutter: Cookiecutter, output: Path) -> None:
    assert_refused(cookiecutter("--no-input", "project_slug=../escape"), "project_slug")
    assert set(files_of(output)) == {"mine.txt"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("project_name", ["x"]),
        ("description", "bell\x07"),
        ("author_name", "\ud800"),
        ("python_version", "3.11"),
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
def test_refuses_a_value_of_a_replay_file(
    cookiecutter: Cookiecutter, home: Path, output: Path, name: str, value: object
) -> None:
    (output / "re-play").mkdir()
    (output / "re-play/mine.txt").write_text("mine")
    before = files_of(output)
    path = replay_file(home, **{name: value})
    assert_refused(cookiecutter("-f", "--replay-file", path), name)
    assert files_of(output) == before


def test_what_cookiecutter_refuses_writes_nothing(cookiecutter: Cookiecutter, output: Path) -> None:
    for answer in ("database=ftp", "use_celery=perhaps"):
        assert cookiecutter("--no-input", answer).returncode != 0
    assert set(files_of(output)) == {"mine.txt"}


def test_a_refused_slug_at_the_prompt_prints_how_to_keep_the_answers(
    home: Path, output: Path
) -> None:
    answers = ["It's mine", "Bad Slug", "", "", "2", "2", "", "", "", "n"]
    result = run_at_a_terminal(home, output, answers)
    command = re.search(r"^To keep the other answers: (.*)$", result.replace("\r", ""), re.M)
    assert command, result
    words = shlex.split(command[1])
    assert words[:2] == ["cookiecutter", str(TEMPLATE)]
    assert "project_name=It's mine" in words
    again = generate(output, "--no-input", *words[2:], home=home)
    assert again.returncode == 0, again.stderr
    recorded = json.loads((output / "it-s-mine/.forge.json").read_text())["cookiecutter"]
    assert (recorded["database"], recorded["use_docker"]) == ("postgresql", False)


def run_at_a_terminal(home: Path, output: Path, answers: list[str]) -> str:
    """Run the command at a pseudo-terminal with typed answers; return what the screen showed."""
    script = (
        "import pty, sys;"
        "sys.exit(pty.spawn([sys.executable, '-m', 'cookiecutter', *sys.argv[1:]]) and 1)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, TEMPLATE, "-o", output],
        env={"HOME": str(home), "TMPDIR": str(home), "PATH": "/usr/bin:/bin", "TERM": "dumb"},
        input="".join(f"{answer}\n" for answer in answers),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout


# An existing folder


def test_an_existing_folder_is_not_touched(cookiecutter: Cookiecutter, output: Path) -> None:
    (output / "my-api").mkdir()
    (output / "my-api/mine.txt").write_text("mine")
    before = files_of(output)
    assert cookiecutter("--no-input").returncode != 0
    assert files_of(output) == before


def test_overwriting_keeps_the_secrets_and_the_owner_s_files(
    cookiecutter: Cookiecutter, output: Path
) -> None:
    """An answer is switched off: what the template wrote for it goes, nothing else."""
    project = output / "my-api"
    assert cookiecutter("--no-input").returncode == 0
    secrets = (project / ".env").read_bytes()
    (project / "app/tasks/mine.py").write_text("mine")
    (project / "app/backup/mine").mkdir()
    (project / "app/backup/mine/deep.txt").write_text("mine")
    assert cookiecutter("--no-input", "-f", "use_celery=no", "use_backup=no").returncode == 0
    assert (project / ".env").read_bytes() == secrets
    assert set(files_of(project / "app/tasks")) == {"mine.py"}
    assert set(files_of(project / "app/backup")) == {"mine", "mine/deep.txt"}
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
def test_a_replay_file_is_taken_literally(
    cookiecutter: Cookiecutter, home: Path, output: Path, text: str
) -> None:
    """The safe way for untrusted answers: any text gives a valid project and is not executed."""
    path = replay_file(home, description=text, author_name=text, project_name=text)
    result = cookiecutter("--replay-file", path)
    assert result.returncode == 0, result.stderr
    project = output / "re-play"
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    assert pyproject["project"]["description"] == text
    assert pyproject["project"].get("authors", [{"name": ""}]) == [{"name": text}]
    main = ast.parse((project / "app/main.py").read_text())
    assert text in {node.value for node in ast.walk(main) if isinstance(node, ast.Constant)}
    recorded = json.loads((project / ".forge.json").read_text())["cookiecutter"]
    assert recorded["project_name"] == text
    assert not [*output.parent.rglob("OWNED"), *TEMPLATE.rglob("OWNED")]
    for command in (["check"], ["format", "--check"]):
        lint = subprocess.run(
            ["ruff", *command, "--no-cache", "-q"],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )
        assert lint.returncode == 0, lint.stdout


ANSWERS = {"project_name": "Same Thing", "database": "postgresql", "use_redis": False}


def test_every_way_in_gives_the_same_project(home: Path, output: Path, tmp_path: Path) -> None:
    """Celery turns Redis on, however the answers arrive."""
    trees: dict[str, Files] = {}

    def made_by(way: str, *arguments: str | Path) -> None:
        result = generate(output / way, *arguments, home=home)
        assert result.returncode == 0, result.stderr
        assert "use_redis is now yes" in result.stdout or way == "its own record"
        trees[way] = files_of(output / way / "same-thing")

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
    assert all(tree == trees["arguments"] for tree in trees.values())


def test_prompts(cookiecutter: Cookiecutter, output: Path) -> None:
    answers = ["Asked For", "", "", "", "2", "2", "yes", "no", "n", "n"]
    result = cookiecutter(input="\n".join([*answers, ""]))
    assert result.returncode == 0, result.stderr
    assert "Database" in result.stdout
    assert "use_redis is now yes" in result.stdout
    recorded = json.loads((output / "asked-for/.forge.json").read_text())["cookiecutter"]
    expected = {"python_version": "3.13", "database": "postgresql"}
    assert recorded | expected | {"use_redis": True, "use_docker": False} == recorded


# The last message


def steps_of(result: Completed) -> list[str]:
    """Return the commands that the message after generation names."""
    return [line.strip() for line in result.stdout.splitlines() if line.startswith("    ")]


def test_next_steps_start_in_the_right_folder(cookiecutter: Cookiecutter, output: Path) -> None:
    assert steps_of(cookiecutter("--no-input"))[0] == f"cd {output}/my-api"


@pytest.mark.parametrize("database", ["postgresql", "mysql"])
@pytest.mark.parametrize("use_docker", ["yes", "no"])
def test_next_steps_lead_to_a_database(
    cookiecutter: Cookiecutter, database: str, use_docker: str
) -> None:
    result = cookiecutter("--no-input", f"database={database}", f"use_docker={use_docker}")
    starts_one = any(step.startswith("docker compose") for step in steps_of(result))
    assert starts_one == (use_docker == "yes")
    assert "DATABASE_URL" in result.stdout


@pytest.mark.parametrize("stdout", ["closed pipe", "full disk", "cp1252", "none"])
def test_a_message_that_cannot_be_printed_does_not_matter(
    home: Path, tmp_path: Path, stdout: str
) -> None:
    """Cookiecutter deletes the project when a hook fails."""
    output = tmp_path / "出力"
    arguments = ["-o", str(output), "--no-input", "use_redis=no"]  # both hooks print something
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
