"""What takes longer than a generated project's own suite should: schemas, faults, load and kills."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.harness import DATABASES, install, run_suite

GENERATED = Path(__file__).with_name("generated")


@pytest.mark.parametrize("database", DATABASES)
def test_backups_of_hard_schemas_under_load_and_kills(bake: Bake, database: str) -> None:
    """The files of ``generated/`` become part of the project's own suite, on a real server."""
    project = bake(database=database, use_celery=False)
    for name in (database, "load", "copies"):
        shutil.copy(GENERATED / f"backup_{name}.py", project / f"tests/backup/test_{name}.py")
    install(project, None, "--with=moto[server]") if False else install(project)
    run_suite(project, *(f"tests/backup/test_{name}.py" for name in (database, "load", "copies")))
