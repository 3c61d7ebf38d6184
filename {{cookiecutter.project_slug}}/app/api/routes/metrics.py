"""Metrics for Prometheus."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, {{ "REGISTRY, " if cookiecutter.use_celery or cookiecutter.use_backup }}generate_latest
from prometheus_fastapi_instrumentator import Instrumentator

{% set sources = (["jobs", "queues", "schedule"] if cookiecutter.use_celery else []) + (["backups"] if cookiecutter.use_backup else []) %}
from app.core.config.settings import settings
{% if sources %}
from app.metrics import SourcesCollector{% for name in sources | sort %}, read_{{ name }}{% endfor +%}
{% endif %}

router = APIRouter()
{{ "REGISTRY.register(\n    SourcesCollector(\n        {\n" if sources }}{% for name in sources %}            "{{ name }}": read_{{ name }},
{% endfor %}{{ "        }\n    )\n)\n" if sources }}Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


def add_metrics(app: FastAPI) -> None:
    """Count and time the requests of the application."""
    Instrumentator(excluded_handlers=["/health", "/metrics"]).instrument(app)


@router.get("/metrics", include_in_schema=False)
def metrics(bearer: Bearer) -> Response:
    """Return the metrics if the request has ``METRICS_TOKEN``; without one they are off."""
    token = settings.app.METRICS_TOKEN
    given = bearer.credentials if bearer else ""
    if not token or not secrets.compare_digest(given.encode(), token.encode()):
        raise HTTPException(404)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
