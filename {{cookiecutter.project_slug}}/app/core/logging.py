"""Structured logs: JSON in production, readable lines in development. Neither shows a secret."""

import logging
import re
import sys
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

from app.core.config.settings import settings

SECRET_NAME = re.compile("passw|secret|token|authorization|cookie|api_?key|credential", re.I)
# In texts: the password of an URL, and what follows Bearer.
SECRET_TEXT = re.compile(r"(://[^:/@\s]*:)[^@/\s]+(?=@)|(bearer\s+)\S+", re.I)
# Added by libraries: what was passed in and came out, a coloured copy.
UNWANTED = ("data", "color_message")


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
    last: list[Processor]
    if settings.app.ENVIRONMENT == "production":
        # Never with the local variables: they hold secrets.
        transformer = ExceptionDictTransformer(show_locals=False)
        last = [
            structlog.processors.ExceptionRenderer(transformer),
            _redact,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        last = [
            structlog.processors.format_exc_info,
            _redact,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.app.LOG_LEVEL)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):  # these come with their own
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    logging.getLogger("uvicorn.access").addFilter(_clean_access)
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


def _clean_access(record: logging.LogRecord) -> bool:
    """Cut the query off the address in an access log: it is the users' own.

    Return False for health checks: a line every few seconds would bury the others.
    """
    if isinstance(record.args, tuple) and len(record.args) == 5:
        client, method, address, version, status = record.args
        path = str(address).partition("?")[0]
        record.args = (client, method, path, version, status)
        return path != "/health/live"
    return True


def _redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    for name in UNWANTED:
        event.pop(name, None)
    return {name: _redacted(name, value) for name, value in event.items()}


def _redacted(name: object, value: Any) -> Any:
    if isinstance(name, str) and SECRET_NAME.search(name):
        return "***"
    if isinstance(value, str):
        return SECRET_TEXT.sub(r"\1\2***", value)
    if isinstance(value, dict):
        return {key: _redacted(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(None, item) for item in value]
    return value
