"""What takes longer than a generated project's own suite should: backups under load and kills."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Bake
from tests.harness import DATABASES, install, run_suite

HEAVY = Path(__file__).with_name("generated") / "backup_heavy.py"


@pytest.mark.parametrize("database", DATABASES)
def test_backups_under_load_and_kills(bake: Bake, database: str) -> None:
    """100 000 rows, writers that never stop, restores killed at any moment; on a real server."""
    project = bake(database=database, use_celery=False)
    shutil.copy(HEAVY, project / "tests/backup/test_heavy.py")
    install(project)
    run_suite(project, "tests/backup/test_heavy.py")
