"""What takes longer than a generated project's own suite should: schemas, faults, load and kills."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.harness import DATABASES, find_program, install, run_suite

GENERATED = Path(__file__).with_name("generated")


@pytest.mark.parametrize("name", ["schemas", "load", "copies"])
@pytest.mark.parametrize("database", DATABASES)
def test_backups(bake: Bake, database: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of ``generated/`` become part of the project's own suite, on a real server."""
    project = bake(database=database, use_celery=False)
    source = GENERATED / f"backup_{database if name == 'schemas' else name}.py"
    shutil.copy(source, project / f"tests/backup/test_{name}.py")
    shutil.copy(GENERATED / "schemas_postgresql.py", project / "tests/backup")
    if name == "copies":
        find_program("age", install="apt install age")
        monkeypatch.setenv("MOTO_SERVER", find_program("moto_server", install="uv sync"))
    install(project)
    run_suite(project, f"tests/backup/test_{name}.py")
