"""The commands of README.md that generate a project, and those of docs/pipelines.md."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.bake.test_projects import content
from tests.harness import TEMPLATE, code_blocks, run, uv
from tests.run.updates import RAW, Forge

PAGE = (TEMPLATE / "docs/pipelines.md").read_text()
ANSWERS, WORKFLOW = code_blocks(PAGE, "yaml")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home directory of its own, but the packages that uv has downloaded."""
    cache = run(uv(), "cache", "dir", cwd=tmp_path).strip()
    path = f"{Path(uv()).parent}:{os.environ['PATH']}"
    return os.environ | {"HOME": str(tmp_path), "UV_CACHE_DIR": cache, "PATH": path}


def follow(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Run a command in a new folder, or an old one, with this clone as the template."""
    folder.mkdir(exist_ok=True)
    for name in ("answers.yaml", "company.yaml"):
        (folder / name).write_text(ANSWERS)
    command = command.replace("gh:org/forge", str(TEMPLATE)).replace(RAW, f"file://{TEMPLATE}")
    run("bash", "-euc", command, cwd=folder, env=environment)


def test_first_command_of_the_readme(tmp_path: Path, environment: dict[str, str]) -> None:
    run(sys.executable, "-m", "venv", "python", cwd=tmp_path)
    command = code_blocks((TEMPLATE / "README.md").read_text())[0].strip()
    path = f"{tmp_path}/python/bin:{os.environ['PATH']}"
    follow(f"yes '' | ({command})", tmp_path, environment | {"PATH": path})
    assert (tmp_path / "my-api/pyproject.toml").exists()


def test_every_way_gives_the_same_project(tmp_path: Path, environment: dict[str, str]) -> None:
    ways, check, company, homeless = code_blocks(PAGE)
    arguments, config_file, replay = ways.splitlines()
    follow(arguments, tmp_path / "arguments", environment)
    follow(config_file, tmp_path / "config", environment)
    follow(replay, tmp_path / "config", environment)
    expected = set(content(tmp_path / "arguments/same-thing"))
    for way in ("config", "config/elsewhere"):
        different = expected ^ set(content(tmp_path / way / "same-thing"))
        assert not {str(path) for path, _ in different}, way

    follow(check, tmp_path / "config", environment)
    with pytest.raises(AssertionError, match=r"3\.12 is not (one of|of type)"):
        follow(f"sed -i s/'\"'//g answers.yaml; {check}", tmp_path / "config", environment)
    follow(company.replace("forge ", "forge --no-input "), tmp_path / "company", environment)
    record = json.loads((tmp_path / "company/order-service/.forge.json").read_text())
    assert record["cookiecutter"]["database"] == "postgresql"

    del environment["HOME"]
    follow(homeless, tmp_path / "homeless", environment)
    assert (tmp_path / "homeless/same-thing/.forge.json").exists()
    assert not (tmp_path / "homeless/~").exists()


def test_projects_from_a_table(forge: Forge, tmp_path: Path, environment: dict[str, str]) -> None:
    [table] = code_blocks(PAGE, "csv")
    (tmp_path / "services.csv").write_text(table)
    answers = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    answers = {n: v[0] if isinstance(v, list) else v for n, v in answers.items() if n[0] != "_"}
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    steps = yaml.safe_load(WORKFLOW)["jobs"]["generate"]["steps"]
    [script] = [step["run"] for step in steps if "run" in step]
    script = script.replace("https://github.com/org/forge", f"file://{forge.repository}")
    script = script.replace("v0.3.0", forge.new)
    follow(script, tmp_path, environment | {"RUNNER_TEMP": str(tmp_path)})
    for row in csv.DictReader(table.splitlines()):
        record = json.loads((tmp_path / f"generated/{row['project_slug']}/.forge.json").read_text())
        assert record["cookiecutter"]["project_name"] == row["project_name"]
        assert record["cookiecutter"]["use_celery"] == (row["use_celery"] == "true")
