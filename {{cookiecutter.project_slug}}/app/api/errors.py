"""The error responses of the API."""

from http import HTTPStatus
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import {% if cookiecutter.database != "postgresql" %}DBAPIError, {% endif %}InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.routing import Match

from app.core.rate_limit import RateLimitExceededError

log = structlog.get_logger(__name__)


class FieldError(BaseModel):
    """A validation error of one field of a request."""

    loc: list[str | int] = Field(examples=[["body", "email"]])
    msg: str = Field(examples=["Value error, must be an email address"])
    type: str = Field(examples=["value_error"])


class ErrorResponse(BaseModel):
    """The body of every error response. ``detail`` is a list for status 422, otherwise a text."""

    detail: str | list[FieldError] = Field(examples=["Not authenticated"])


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route that can fail with these status codes."""
    return {
        code: {"model": ErrorResponse, "description": HTTPStatus(code).phrase} for code in codes
    }


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers of the exceptions that any route can raise."""
    app.add_exception_handler(RequestValidationError, validation_failed)
    app.add_exception_handler(RateLimitExceededError, rate_limit_exceeded)
    for database_error in (OperationalError, InterfaceError, ProgrammingError, PoolTimeoutError):
        app.add_exception_handler(database_error, database_failed)
    app.add_exception_handler(status.HTTP_405_METHOD_NOT_ALLOWED, method_not_allowed)
    app.add_exception_handler(Exception, internal_error)


async def validation_failed(_request: Request, error: Exception) -> JSONResponse:
    """Answer 422. The response does not repeat the input: it may be secret, huge or not JSON."""
    assert isinstance(error, RequestValidationError)
    detail = [{name: item[name] for name in ("loc", "msg", "type")} for item in error.errors()]
    return JSONResponse({"detail": detail}, status.HTTP_422_UNPROCESSABLE_CONTENT)


async def rate_limit_exceeded(_request: Request, error: Exception) -> JSONResponse:
    """Answer 429."""
    assert isinstance(error, RateLimitExceededError)
    return JSONResponse(
        {"detail": "Too many attempts, try again later"},
        status.HTTP_429_TOO_MANY_REQUESTS,
        {"Retry-After": str(error.retry_after)},
    )


async def database_failed(_request: Request, error: Exception) -> JSONResponse:
    """Answer 503 if the database is unavailable, or 500 if trying again would not help."""
    if isinstance(error, ProgrammingError) or _schema_is_outdated(error):
        log.error("The database lacks a table or column? Run: alembic upgrade head")
        raise error
    log.error("database unavailable", error=str(error).splitlines()[0])
    return JSONResponse(
        {"detail": "The database is unavailable, try again later"},
        status.HTTP_503_SERVICE_UNAVAILABLE,
        {"Retry-After": "5"},
    )


async def method_not_allowed(request: Request, _error: Exception) -> JSONResponse:
    """Answer 405 with all methods of the path. Starlette names those of the first route only."""
    allowed = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        for route in request.app.routes
        if route.matches({**request.scope, "method": method})[0] == Match.FULL
    ]
    return JSONResponse(
        {"detail": "Method Not Allowed"},
        status.HTTP_405_METHOD_NOT_ALLOWED,
        {"Allow": ", ".join(allowed)},
    )


async def internal_error(_request: Request, _error: Exception) -> JSONResponse:
    """Answer 500. The server logs the exception with the same request id."""
    request_id = correlation_id.get() or ""
    return JSONResponse(
        {"detail": "Internal server error", "request_id": request_id},
        status.HTTP_500_INTERNAL_SERVER_ERROR,
        {"X-Request-ID": request_id},
    )


def _schema_is_outdated(error: Exception) -> bool:
    """Return whether an OperationalError says that a table or column is missing."""
{% if cookiecutter.database == "sqlite" %}
    # https://www.sqlite.org/rescode.html#error
    name = "sqlite_errorname"
    return isinstance(error, DBAPIError) and getattr(error.orig, name, None) == "SQLITE_ERROR"
{% elif cookiecutter.database == "mysql" %}
    # https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
    unknown_column = 1054
    return isinstance(error, DBAPIError) and unknown_column in getattr(error.orig, "args", ())
{% else %}
    return False
{% endif %}
