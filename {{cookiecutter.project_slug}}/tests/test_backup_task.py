"""The backup tasks: what they return, and how they fail."""

import json
from pathlib import Path

import pytest

from app.backup import BackupError, files
from app.core.config.settings import settings
from app.tasks.backup_database_task import backup_database_task, verify_backup_task


def test_backup_is_made_and_verified(database: None) -> None:
    made = backup_database_task.apply(kwargs={"retention_days": 30}).get()
    json.dumps(made)
    assert {"alembic_version", "users"} <= {name.rpartition(".")[2] for name in made["tables"]}
    assert verify_backup_task.apply().get()["file"] == made["file"]
    assert files.read_manifest(settings.backup.BACKUP_DIR / made["file"]).verified_at


def test_reports_the_error_after_its_retries(
    database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings.backup, "BACKUP_COPY_URL", f"file://{tmp_path}/nowhere")
    result = backup_database_task.apply()
    assert result.status == "FAILURE"
    with pytest.raises(BackupError, match="nowhere"):
        result.get()
