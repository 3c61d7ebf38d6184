"""Health checks."""

from fastapi import APIRouter, Response
{% if cookiecutter.use_celery %}
from kombu.exceptions import OperationalError as BrokerError
{% endif %}
from pydantic import BaseModel
{% if cookiecutter.use_redis %}
from redis.exceptions import RedisError
{% endif %}
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

{% if cookiecutter.use_celery %}
from app.core.celery import celery_app
{% endif %}
from app.core.database import make_engine
{% if cookiecutter.use_redis %}
from app.core.redis import get_redis
{% endif %}

router = APIRouter(prefix="/health", tags=["health"])
# Connections of its own, so that it works when requests use all the others.
engine = make_engine(timeout=1)


class Readiness(BaseModel):
    """Whether requests can succeed, and the state of each dependency."""

    status: str
    dependencies: dict[str, str]


@router.get("/live")
async def live() -> dict[str, str]:
    """Answer while the process runs, whatever else is down."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"model": Readiness}})
def ready(response: Response) -> Readiness:
    """Answer 200 when requests can succeed, otherwise 503.

    Without Redis the status is "degraded": jobs are accepted, and run later.
    """
    states = {"database": "ok"{{ ', "redis": "ok"' if cookiecutter.use_redis }}{{ ', "broker": "ok"' if cookiecutter.use_celery }}}
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError:
        states["database"] = "down"
{% if cookiecutter.use_redis %}
    try:
        get_redis().ping()
    except RedisError:
        states["redis"] = "down"
{% endif %}
{% if cookiecutter.use_celery %}
    try:
        with celery_app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=1)
    except (BrokerError, OSError):
        states["broker"] = "down"
{% endif %}
    if states["database"] == "down":
        response.status_code = 503
        return Readiness(status="unavailable", dependencies=states)
    status = "ok" if set(states.values()) == {"ok"} else "degraded"
    return Readiness(status=status, dependencies=states)
