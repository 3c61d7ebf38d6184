"""What a worker and beat refuse to start with."""

import os
import subprocess
import sys

import pytest

CELERY = [sys.executable, "-m", "celery", "-A", "app.core.celery.celery_app"]


@pytest.mark.parametrize(
    ("role", "variable", "value"),
    [
        ("worker", "CELERY_VISIBILITY_TIMEOUT", "100"),
        ("beat", "CELERY_VISIBILITY_TIMEOUT", "100"),
        ("worker", "CELERY_TASK_TIME_LIMIT", "10"),
        ("worker", "CELERY_BROKER_URL", "amqp://localhost"),
        ("beat", "CELERY_TIMEZONE", "Atlantis"),
    ],
)
def test_a_bad_setting_is_named(redis: None, role: str, variable: str, value: str) -> None:
    environment = os.environ | {variable: value}
    process = subprocess.run(
        [*CELERY, role], env=environment, capture_output=True, text=True, timeout=60
    )
    assert process.returncode != 0
    assert variable in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be refused as root"
)
@pytest.mark.parametrize("role", ["worker", "beat"])
def test_root_is_refused_in_production(redis: None, role: str) -> None:
    environment = os.environ | {"ENVIRONMENT": "production"}
    process = subprocess.run(
        [*CELERY, role], env=environment, capture_output=True, text=True, timeout=60
    )
    assert process.returncode != 0
    assert "not as root" in process.stderr.splitlines()[-1]


def test_a_countdown_must_fit() -> None:
    from app.core.config.settings import settings
    from app.tasks.example_task import send_notification

    with pytest.raises(ValueError, match="CELERY_VISIBILITY_TIMEOUT"):
        send_notification.apply_async(
            (1, "late"), countdown=settings.celery.CELERY_VISIBILITY_TIMEOUT
        )
