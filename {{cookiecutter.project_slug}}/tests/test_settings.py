"""Settings: their sources, and the messages about mistakes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.core.config.settings import (
    PROJECT_ROOT,
    Settings,
    SettingsGroup,
    settings,
    warn_of_unknown_names,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "nonsense"),
        ("LOG_LEVEL", "LOUD"),
        ("LOGIN_RATE_LIMIT", "often"),
        ("CORS_ORIGINS", "https://app.example.com/"),
{% if cookiecutter.use_redis %}
        ("REDIS_URL", "http://localhost"),
{% endif %}
{% if cookiecutter.use_celery %}
        ("CELERY_TASK_SERIALIZER", "pickle"),
{% endif %}
    ],
)
def test_invalid_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_invalid_value_stops_the_start_with_a_line() -> None:
    command, env = [sys.executable, "-c", "import app.main"], os.environ | {"SECRET_KEY": "short"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    first, second, *_ = result.stderr.splitlines()
    assert first == "SECRET_KEY: String should have at least 32 characters"
    assert "openssl rand -hex 32" in second


def test_unknown_name_in_env_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / ".env"
    path.write_text("# comment\nLOG_LEVEL=INFO\nAWS_REGION=eu\nLOG_LEVLE=INFO\n")
    warn_of_unknown_names(path)
    [message] = caplog.messages
    expected = "LOG_LEVLE is not a setting (removed or misspelt), did you mean LOG_LEVEL?"
    assert message == f".env, line 4: {expected}"


def test_env_example_has_every_setting() -> None:
    example = (PROJECT_ROOT / ".env.example").read_text()
    names = set(re.findall(r"^(?:# )?([A-Z]\w*)=", example, re.MULTILINE))
    for group in SettingsGroup.__subclasses__():
        assert names >= group.model_fields.keys()


def test_secrets_are_not_shown() -> None:
    assert settings.app.SECRET_KEY not in repr(settings)
    assert settings.database.DATABASE_URL not in repr(settings)
