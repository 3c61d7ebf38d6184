"""Health checks."""

from typing import Literal

from fastapi import APIRouter, Response, status
from pydantic import BaseModel

from app.core.health import REQUIRED, check_dependencies

router = APIRouter(prefix="/health", tags=["health"])


class Liveness(BaseModel):
    """The state of the process."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests can succeed, and the state of each dependency."""

    status: Literal["ok", "degraded", "unavailable"]
    dependencies: dict[str, str]


@router.get("/live")
async def live() -> Liveness:
    """Answer while the process runs, whatever else is down."""
    return Liveness()


@router.get("/ready", responses={503: {"model": Readiness}})
async def ready(response: Response) -> Readiness:
    """Answer 200 when requests can succeed, otherwise 503, within two seconds.

    The status is "degraded" when something is down that requests do not need.
    """
    dependencies = await check_dependencies()
    if any(dependencies[name] != "ok" for name in REQUIRED):
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return Readiness(status="unavailable", dependencies=dependencies)
    is_ok = all(state == "ok" for state in dependencies.values())
    return Readiness(status="ok" if is_ok else "degraded", dependencies=dependencies)
