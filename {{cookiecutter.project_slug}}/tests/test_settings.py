"""Settings: their sources, and the messages about mistakes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.config.base import PROJECT_ROOT, SettingsGroup
from app.core.config.env_file import check_env_file
from app.core.config.settings import load_settings

NAMES = {name for group in SettingsGroup.__subclasses__() for name in group.model_fields}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "short"),
        ("DATABASE_URL", "ftp://example.com"),
        ("DATABASE_URL", "nonsense"),
        ("LOG_LEVEL", "LOUD"),
        ("PORT", "70000"),
        ("ACCESS_TOKEN_MINUTES", "many"),
{% if cookiecutter.use_redis %}
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://localhost/abc"),
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
def test_invalid_value_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"^{name}: [^\n]+$"):
        load_settings()


def test_invalid_value_stops_the_start() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import app.main"],
        env=os.environ | {"SECRET_KEY": "short"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "SECRET_KEY: String should have at least 32 characters\n"


def test_environment_variable_overrides_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    assert load_settings().app.LOG_LEVEL == "ERROR"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("\n# comment\nPORT=8001 # comment\nexport LOG_LEVEL='INFO'\nSECRET_KEY=a=b#c\n", None),
        ("SECRET_KEY=\n", None),
        ("OTHER_PROGRAM=1\n", None),
        ("PORT=8001\nLOG_LEVLE=INFO\n", "line 2: LOG_LEVLE .* did you mean LOG_LEVEL?"),
        ("port=8001\n", "line 1: port is not a setting"),
        ("PORT=8001\n\nPORT 8002\n", "line 3: must be NAME=value"),
        ('SECRET_KEY="abc\n', "line 1: must be NAME=value"),
        ("SECRET_KEY='a$b'\nLOG_LEVEL=${A}\n", None),
        ("SECRET_KEY=a$b\n", "line 1: a value with \\$ needs single quotes"),
        ('\ufeffSECRET_KEY="a\\"b"\r\n', None),
    ],
)
def test_mistake_in_env_file_is_reported_with_its_line(
    tmp_path: Path, text: str, mistake: str | None
) -> None:
    (tmp_path / ".env").write_text(text)
    (tmp_path / ".env.example").write_text("# OTHER_PROGRAM=\n")
    found = check_env_file(tmp_path / ".env", NAMES)
    assert len(found) == (mistake is not None)
    assert not mistake or re.search(mistake, found[0])


def test_env_example_has_every_setting() -> None:
    example = (PROJECT_ROOT / ".env.example").read_text()
    names = set(re.findall(r"^(?:# )?([A-Z]\w*)=", example, re.MULTILINE))
{% if cookiecutter.use_docker %}
    for compose_file in PROJECT_ROOT.glob("docker-compose*.yml"):
        assert set(re.findall(r"(?<!\$)\$\{(\w+)", compose_file.read_text())) <= names
{% endif %}
    assert names >= NAMES


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
        "sqlite+pysqlite:///d",
{% endif %}
    ],
)
def test_common_database_urls_mean_the_same_driver(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    found = load_settings().database.DATABASE_URL
    assert found == "{{ {"postgresql": "postgresql+psycopg://u:p%40ss@h/d", "mysql": "mysql+pymysql://u:p%40ss@h/d", "sqlite": "sqlite:///d"}[cookiecutter.database] }}"
