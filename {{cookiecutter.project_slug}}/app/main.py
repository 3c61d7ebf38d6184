{% from "quoted.jinja" import quoted %}
"""The API, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI, Request, status
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.api.routes import api_router
from app.core.database import dispose_engine
from app.core.logging import configure_logging
from app.core.metrics import TELEMETRY

log = structlog.get_logger(__name__)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Nothing is connected at start; what was connected meanwhile is closed at the end."""
    yield
    dispose_engine()


async def database_unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Answer 503 when the database is away: the client may try again."""
    log.error("database unavailable", error=str(error).splitlines()[0])
    return JSONResponse(
        {"detail": "The database is unavailable, try again later"},
        status.HTTP_503_SERVICE_UNAVAILABLE,
        {"Retry-After": "5"},
    )


def create_app() -> FastAPI:
    """Build the application."""
    configure_logging()
    app = FastAPI(
        title={{ quoted(cookiecutter.project_name) }},
        description={{ quoted(cookiecutter.description) }},
        version="0.1.0",
        lifespan=lifespan,
        telemetry=TELEMETRY,
    )
    app.add_middleware(CorrelationIdMiddleware)
    for error in (OperationalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(error, database_unavailable)
    app.include_router(api_router)
    return app


app = create_app()
