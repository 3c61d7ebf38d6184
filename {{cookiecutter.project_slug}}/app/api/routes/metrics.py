"""Metrics for Prometheus."""

import secrets
from ipaddress import ip_address
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

{% if cookiecutter.use_backup %}
from app.backup.metrics import read_backups
{% endif %}
from app.core.config.settings import settings
from app.core.metrics import Source, scrape
{% if cookiecutter.use_celery %}
from app.jobs.metrics import read_jobs, read_queues, read_schedule, read_workers
{% endif %}

router = APIRouter()
bearer = HTTPBearer(auto_error=False)

# A proxy adds one of these. A request that it passes on does not come from this machine.
PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-real-ip")

SOURCES: list[Source] = []
{% if cookiecutter.use_celery %}
SOURCES += [
    Source("jobs", read_jobs),
    Source("queues", read_queues),
    Source("schedule", read_schedule),
    Source("workers", read_workers),
]
{% endif %}
{% if cookiecutter.use_backup %}
SOURCES.append(Source("backups", read_backups))
{% endif %}


async def check_access(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Answer 404 unless the request has the token or, without one, comes from this machine."""
    if token := settings.monitoring.METRICS_TOKEN:
        given = credentials.credentials if credentials else ""
        is_allowed = secrets.compare_digest(given.encode(), token.encode())
    else:
        is_forwarded = any(name in request.headers for name in PROXY_HEADERS)
        is_allowed = not is_forwarded and _is_loopback(request)
    if not is_allowed:
        raise HTTPException(status.HTTP_404_NOT_FOUND)


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:  # A Unix socket, which a proxy uses.
        return False


@router.get("/metrics", dependencies=[Depends(check_access)], include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Return the metrics in the text format of Prometheus."""
    content = await scrape(request.app.version, SOURCES)
    return Response(content, media_type=CONTENT_TYPE_PLAIN_0_0_4)
