"""The backup tasks: what they return, and how they fail."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import make_url

from app.backup import BackupError, backup_status, metrics
from app.backup.settings import backup_config
from app.core.database import DATABASE_NOW, session_scope
from app.models.job import ScheduleState
from app.tasks import backup_database_task as module
from app.tasks.backup_database_task import backup_database_task, verify_backup_task
{% if cookiecutter.database != "sqlite" %}
from tests.servers import free_port
{% endif %}


def test_backup_is_made_and_verified(database: None) -> None:
    made = backup_database_task(retention_days=30)
    assert Path(made["path"]).is_file()
    tables = {name.rpartition(".")[2] for name in made["tables"]}
    assert {"alembic_version", "refresh_tokens", "users"} <= tables
    json.dumps(made)
    assert verify_backup_task()["path"] == made["path"]
    status = backup_status(backup_config())
    assert 0 <= status["last_verified_age"] <= status["last_backup_age"] < 300


def test_new_project_is_not_overdue(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = replace(backup_config(), directory=tmp_path)
    monkeypatch.setattr(metrics, "backup_config", lambda: empty)

    def ages() -> list[float]:
        return [metric.samples[0].value for metric in metrics.read_backups()]

    assert ages() == [inf, inf]  # Beat has never run.
    with session_scope() as session:
        session.add(ScheduleState(name="backup-database-daily", last_run_at=DATABASE_NOW))
    assert max(ages()) < 60


def test_delivered_twice_it_makes_one_backup(database: None, redis: None) -> None:
    first, second = (backup_database_task.apply(task_id="same").get() for _ in range(2))
    assert first["path"] == second["path"]


def test_fails_with_the_words_of_the_database_when_it_is_away(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
{% if cookiecutter.database == "sqlite" %}
    url = make_url(database_url).set(database="/nowhere/at/all.db")
{% else %}
    url = make_url(database_url).set(port=free_port())
{% endif %}
    away = replace(backup_config(), url=url.render_as_string(hide_password=False))
    monkeypatch.setattr(module, "backup_config", lambda: away)
    result = backup_database_task.apply()
    assert result.status == "FAILURE"
    with pytest.raises(BackupError, match="{{ "/nowhere/at" if cookiecutter.database == "sqlite" else "127.0.0.1" }}"):
        result.get()
