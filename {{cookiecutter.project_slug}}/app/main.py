{% from "quoted.jinja" import quoted %}
"""The application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.api.errors import add_error_handlers
from app.api.middleware import SecurityHeadersMiddleware
from app.api.routes import api_router
from app.core.config.settings import settings
from app.core.database import dispose_engine
from app.core.logging import configure_logging
from app.core.metrics import TELEMETRY
from app.core.telemetry import configure_telemetry


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Close the connections to the database when the application stops."""
    yield
    dispose_engine()


def create_app() -> FastAPI:
    """Build the application."""
    configure_logging()
    configure_telemetry()
    options: dict[str, Any] = {
        "title": {{ quoted(cookiecutter.project_name) }},
        "description": {{ quoted(cookiecutter.description) }},
        "version": "0.1.0",
        "lifespan": lifespan,
        "max_body_size": settings.app.MAX_BODY_SIZE,
        "generate_unique_id_function": operation_id,
        # The redirect would contain the Host header, which the client controls.
        "redirect_slashes": False,
        "telemetry": TELEMETRY,
    }
    if settings.app.DOCS_ENABLED:
        app = FastAPIOffline(redoc_url=None, **options)
        app.add_api_route("/", show_docs, include_in_schema=False)
    else:
        app = FastAPI(openapi_url=None, **options)
    add_middleware(app)
    add_error_handlers(app)
    app.include_router(api_router)
    return app


def add_middleware(app: FastAPI) -> None:
    """Add the middleware. The one that is added last is the outermost."""
    if settings.app.CORS_ORIGINS:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.app.CORS_ORIGINS,
            allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(CorrelationIdMiddleware)
    app.add_middleware(SecurityHeadersMiddleware)
    if settings.app.TRUSTED_HOSTS:
        # Health checks on the same machine use these{{ ", Prometheus the last" if cookiecutter.use_docker }}.
        hosts = [*settings.app.TRUSTED_HOSTS, "localhost", "127.0.0.1"{{ ', "app"' if cookiecutter.use_docker }}]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    if settings.app.TRUSTED_PROXIES:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=[*settings.app.TRUSTED_PROXIES])


def operation_id(route: APIRoute) -> str:
    """Return the name of a route's function as its operation id, for generated clients."""
    return route.name


async def show_docs() -> RedirectResponse:
    """Redirect to the documentation."""
    return RedirectResponse("docs")


app = create_app()
