"""Settings: where they come from, and what a bad one says."""

import os
import subprocess
import sys

import pytest

from app.core.config.settings import load_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "short"),
        ("DATABASE_URL", "ftp://example.com"),
        ("DATABASE_URL", "nonsense"),
        ("LOG_LEVEL", "LOUD"),
        ("ACCESS_TOKEN_MINUTES", "many"),
{% if cookiecutter.use_redis %}
        ("REDIS_URL", "http://localhost"),
{% endif %}
{% if cookiecutter.use_celery %}
        ("CELERY_BROKER_URL", "amqp://localhost"),
        ("CELERY_TASK_SERIALIZER", "pickle"),
        ("CELERY_TIMEZONE", "Mars/Olympus"),
        ("CELERY_ENABLE_UTC", "perhaps"),
        ("CELERY_WORKER_CONCURRENCY", "0"),
{% endif %}
{% if cookiecutter.use_backup %}
        ("BACKUP_RETENTION_DAYS", "0"),
{% endif %}
    ],
)
def test_bad_value_is_named_in_a_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message


def test_bad_value_ends_the_start() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import app.main"],
        env=os.environ | {"SECRET_KEY": "short"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("SECRET_KEY: ")
    assert result.stderr.count("\n") == 1


def test_variable_of_the_process_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    assert load_settings().app.LOG_LEVEL == "ERROR"


@pytest.mark.parametrize(
    "url",
    [
{% if cookiecutter.database == "postgresql" %}
        "postgres://u:p%40ss@h/d",
        "postgresql://u:p%40ss@h/d",
        "postgresql+psycopg://u:p%40ss@h/d",
{% elif cookiecutter.database == "mysql" %}
        "mysql://u:p%40ss@h/d",
        "mariadb://u:p%40ss@h/d",
        "mysql+pymysql://u:p%40ss@h/d",
{% else %}
        "sqlite:///d",
{% endif %}
    ],
)
def test_usual_database_urls_mean_the_project_s_driver(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    found = load_settings().database.DATABASE_URL
{% if cookiecutter.database == "postgresql" %}
    assert found == "postgresql+psycopg://u:p%40ss@h/d"
{% elif cookiecutter.database == "mysql" %}
    assert found == "mysql+pymysql://u:p%40ss@h/d"
{% else %}
    assert found == "sqlite:///d"
{% endif %}
