{% from "quoted.jinja" import quoted %}
"""The application."""

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
{% if cookiecutter.use_monitoring %}
from prometheus_fastapi_instrumentator import Instrumentator
{% endif %}
from starlette.middleware.base import RequestResponseEndpoint

{% if cookiecutter.use_celery %}
from app.admin import add_admin
{% endif %}
from app.api.errors import add_error_handlers
from app.api.routes import api_router
{% if cookiecutter.use_celery %}
from app.api.routes.tasks import add_job_error_handlers
{% endif %}
from app.core.config.settings import settings
from app.core.logging import configure_logging

configure_logging()


def operation_id(route: APIRoute) -> str:
    """Return the tag and the name of a route, such as ``auth-login``, for generated clients."""
    return "-".join([*map(str, route.tags), route.name])


app = FastAPI(
    title={{ quoted(cookiecutter.project_name) }},
    description={{ quoted(cookiecutter.description) }},
    version="0.1.0",
    max_body_size=settings.app.MAX_BODY_SIZE,
    generate_unique_id_function=operation_id,
)
app.add_middleware(
    CORSMiddleware,
    allow_origins=settings.app.CORS_ORIGINS,
    allow_methods=["*"],
    allow_headers=["Authorization", "Content-Type"],
)
app.add_middleware(CorrelationIdMiddleware)
{% if cookiecutter.use_monitoring %}
Instrumentator(excluded_handlers=["/health", "/metrics"]).instrument(app)
{% endif %}


@app.middleware("http")
async def add_security_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Add the headers that OWASP recommends for APIs."""
    response = await call_next(request)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response


add_error_handlers(app)
app.include_router(api_router)
{% if cookiecutter.use_celery %}
add_job_error_handlers(app)
add_admin(app)
{% endif %}
