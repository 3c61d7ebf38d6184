"""Structured logs: JSON in production, readable lines in development."""

import logging

import structlog
from asgi_correlation_id import correlation_id
from structlog.typing import EventDict, Processor

from app.core.config.settings import settings


def configure_logging() -> None:
    """Send every logger of the process, the libraries' too, through one handler to stderr."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
    ]
    renderer: list[Processor]
    if settings.app.ENVIRONMENT == "production":
        renderer = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        renderer = [structlog.dev.ConsoleRenderer()]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.app.LOG_LEVEL)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):  # these come with their own
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    request_id = correlation_id.get()
    if request_id:
        event["request_id"] = request_id
    return event
