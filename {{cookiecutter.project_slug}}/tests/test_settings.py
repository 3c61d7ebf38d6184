"""Settings: where they come from, and what a bad one says."""

import os
import subprocess
import sys

import pytest

GOOD = {"SECRET_KEY": "x" * 32, "DATABASE_URL": os.environ["DATABASE_URL"]}


def load(expression: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Print an expression of ``settings`` in a process of its own."""
    code = f"from app.core.config.settings import settings; print({expression})"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | GOOD | variables,
        capture_output=True,
        text=True,
        check=False,
    )


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
def test_bad_value_ends_the_start_with_a_line_that_names_it(name: str, value: str) -> None:
    result = load("settings", **{name: value})
    assert result.returncode == 1
    assert result.stderr.startswith(f"{name}: ")
    assert result.stderr.count("\n") == 1


def test_variable_of_the_process_is_used() -> None:
    result = load("settings.app.LOG_LEVEL", LOG_LEVEL="ERROR")
    assert result.stdout == "ERROR\n"


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
def test_usual_database_urls_mean_the_project_s_driver(url: str) -> None:
    result = load("settings.database.DATABASE_URL", DATABASE_URL=url)
{% if cookiecutter.database == "postgresql" %}
    assert result.stdout == "postgresql+psycopg://u:p%40ss@h/d\n"
{% elif cookiecutter.database == "mysql" %}
    assert result.stdout == "mysql+pymysql://u:p%40ss@h/d\n"
{% else %}
    assert result.stdout == "sqlite:///d\n"
{% endif %}
