"""The backup tasks: what they return, what they do when delivered twice, how they fail."""

import json
from pathlib import Path

import pytest
from sqlalchemy import make_url
{% if cookiecutter.database != "sqlite" %}

from tests.servers import free_port
{% endif %}


def test_backup_is_made_and_verified(database: None) -> None:
    from app.tasks.backup_database_task import backup_database_task, verify_backup_task

    made = backup_database_task(retention_days=30)
    assert Path(made["path"]).is_file()
    assert made["revision"] == "0001"
    tables = {name.rpartition(".")[2] for name in made["tables"]}
    assert tables == {"alembic_version", "refresh_tokens", "users"}
    json.dumps(made)
    assert verify_backup_task()["path"] == made["path"]


def test_delivered_twice_it_makes_one_backup(database: None) -> None:
    from app.tasks.backup_database_task import backup_database_task

    first, second = (backup_database_task.apply(task_id="same").get() for _ in range(2))
    assert first["path"] == second["path"]


def test_database_away_is_a_failure_in_the_words_of_the_tool(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.backup import BackupConfig, BackupError
    from app.core.config.settings import settings
    from app.tasks import backup_database_task as module

{% if cookiecutter.database == "sqlite" %}
    url = make_url(database_url).set(database="/nowhere/at/all.db")
{% else %}
    url = make_url(database_url).set(port=free_port())
{% endif %}
    away = BackupConfig(url.render_as_string(hide_password=False), settings.backup.BACKUP_DIR)
    monkeypatch.setattr(module, "_config", lambda: away)
    result = module.backup_database_task.apply()
    assert result.status == "FAILURE"
    with pytest.raises(BackupError, match="{{ "/nowhere/at/all.db" if cookiecutter.database == "sqlite" else "127.0.0.1" }}"):
        result.get()


def test_readiness_tells_the_age_of_the_last_backup(database: None) -> None:
    from app.backup import backup_status
    from app.tasks.backup_database_task import _config, backup_database_task, verify_backup_task

    backup_database_task()
    verify_backup_task()
    status = backup_status(_config())
    assert 0 <= status["last_verified_age"] <= status["last_backup_age"] < 300
