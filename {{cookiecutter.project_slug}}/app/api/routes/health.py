"""Health checks."""

import asyncio

import anyio
import structlog
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from fastapi import APIRouter, Response
from pydantic import BaseModel

{{ "from app.core.celery import celery_app\n" if cookiecutter.use_celery }}from app.core.config.settings import PROJECT_ROOT
from app.core.database import get_monitoring_engine
{{ "from app.core.redis import get_redis\n" if cookiecutter.use_redis }}
log = structlog.get_logger(__name__)
router = APIRouter(prefix="/health", tags=["health"])
scripts = ScriptDirectory.from_config(Config(toml_file=PROJECT_ROOT / "pyproject.toml"))
REVISIONS = {script.revision for script in scripts.walk_revisions()}


class Readiness(BaseModel):
    """Whether requests can succeed, and the state of each dependency."""

    status: str
    dependencies: dict[str, str]


def check_migrations() -> str:
    """Compare the database with the newest migration. A newer version may have migrated it."""
    with get_monitoring_engine().connect() as connection:
        applied = set(MigrationContext.configure(connection).get_current_heads())
    is_pending = applied <= REVISIONS and applied != set(scripts.get_heads())
    return "pending: run uv run alembic upgrade head" if is_pending else "ok"


{% if cookiecutter.use_redis %}
def check_redis() -> str:
    """Send a PING."""
    get_redis().ping()
    return "ok"


{% endif %}
{% if cookiecutter.use_celery %}
def check_broker() -> str:
    """Connect to the broker."""
    with celery_app.connection_for_write() as broker:
        broker.ensure_connection(max_retries=1, interval_start=0, timeout=1)
    return "ok"


{% endif %}
{% set checks = ["migrations"] + (["redis"] if cookiecutter.use_redis else []) + (["broker"] if cookiecutter.use_celery else []) %}
# One thread each: a check that hangs is not started again.
CHECKS = {
{% for name in checks %}
    "{{ name }}": (check_{{ name }}, anyio.CapacityLimiter(1)),
{% endfor %}
}


async def check(name: str) -> str:
    """Return the state of a dependency within two seconds."""
    function, limiter = CHECKS[name]
    try:
        with anyio.fail_after(2):
            return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)
    except Exception as error:
        log.warning("not ready", dependency=name, error=f"{type(error).__name__}: {error}")
        return "down"


@router.get("/live")
async def live() -> dict[str, str]:
    """Answer while the process runs, whatever else is down."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"model": Readiness}})
async def ready(response: Response) -> Readiness:
    """Answer 200 when requests can succeed, otherwise 503{{ "; without Redis they are \"degraded\"" if cookiecutter.use_redis }}."""
    states = dict(zip(CHECKS, await asyncio.gather(*map(check, CHECKS)), strict=True))
    states["database"] = "down" if states["migrations"] == "down" else "ok"
    status = "ok" if set(states.values()) == {"ok"} else "degraded"
    if states["migrations"] != "ok":
        response.status_code, status = 503, "unavailable"
    return Readiness(status=status, dependencies=states)
