"""The Celery app: what it knows, what it schedules, what its settings are."""

from pathlib import Path

import pytest


def test_every_scheduled_task_is_registered(worker: Path) -> None:
    from app.core.celery import celery_app

    inspect = celery_app.control.inspect(timeout=10, limit=1)
    (registered,) = (inspect.registered() or {}).values()
    scheduled = {entry["task"] for entry in celery_app.conf.beat_schedule.values()}
    assert scheduled <= {name.split(" ")[0] for name in registered}


def test_every_module_in_tasks_is_found() -> None:
    from app.core.celery import APP_FOLDER, celery_app

    names = {path.stem for path in (APP_FOLDER / "tasks").glob("*.py")} - {"__init__"}
    assert {f"app.tasks.{name}" for name in names} <= set(celery_app.conf.include)


@pytest.mark.parametrize(
    ("option", "variable"),
    [
        ("broker_url", "CELERY_BROKER_URL"),
        ("result_backend", "CELERY_RESULT_BACKEND"),
        ("task_serializer", "CELERY_TASK_SERIALIZER"),
        ("result_serializer", "CELERY_RESULT_SERIALIZER"),
        ("timezone", "CELERY_TIMEZONE"),
        ("enable_utc", "CELERY_ENABLE_UTC"),
        ("worker_concurrency", "CELERY_WORKER_CONCURRENCY"),
    ],
)
def test_settings_reach_celery(option: str, variable: str) -> None:
    from app.core.celery import celery_app
    from app.core.config.settings import settings

    assert celery_app.conf[option] == getattr(settings.celery, variable)


def test_only_json_is_accepted() -> None:
    from app.core.celery import celery_app

    assert celery_app.conf.accept_content == ["json"]
