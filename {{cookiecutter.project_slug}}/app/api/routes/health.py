"""Is the process alive, and is what it depends on there?"""

import asyncio

from fastapi import APIRouter, Response, status
from pydantic import BaseModel

{% if cookiecutter.use_backup %}
from app.backup import BackupConfig, backup_status
from app.core.config.settings import settings
{% endif %}
from app.core.health import probes

router = APIRouter(prefix="/health", tags=["health"])
_probes = probes()


class Health(BaseModel):
    """The state of the process and, when asked for, of each dependency by name."""

    status: str
    dependencies: dict[str, str] = {}
{% if cookiecutter.use_backup %}
    # Seconds since the last good backup was made, and since one was restored as a test.
    last_backup_age: float | None = None
    last_verified_age: float | None = None
{% endif %}


@router.get("/live")
async def live() -> Health:
    """Answer while the process runs, whatever else is down."""
    return Health(status="ok")


@router.get("/ready", responses={503: {"model": Health}})
async def ready(response: Response) -> Health:
    """Answer 200 when every dependency is up, otherwise 503, within two seconds."""
    up = await asyncio.gather(*(probe.is_up() for probe in _probes))
    if not all(up):
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
{% if cookiecutter.use_backup %}
    config = BackupConfig(settings.database.DATABASE_URL, settings.backup.BACKUP_DIR)
    # Not in the threads of the routes: they may all be waiting for a database that hangs.
    backups = await asyncio.to_thread(backup_status, config)
{% endif %}
    return Health(
        status="ok" if all(up) else "unavailable",
        dependencies={
            probe.name: "ok" if is_up else "down" for probe, is_up in zip(_probes, up, strict=True)
        },
{% if cookiecutter.use_backup %}
        last_backup_age=backups["last_backup_age"],
        last_verified_age=backups["last_verified_age"],
{% endif %}
    )
