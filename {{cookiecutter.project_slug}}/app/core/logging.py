"""Structured logs on standard error: JSON in production, readable lines in development.

Secrets are redacted.
"""

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
# In text: the password of a URL, and Bearer tokens.
SECRET_TEXT = re.compile(r"(://[^:/@\s]*:)[^@/\s]+(?=@)|(bearer\s+)\S+", re.I)
# Added by {{ "Celery and " if cookiecutter.use_celery }}Uvicorn: arguments and results, and a coloured copy of the message.
UNWANTED = ("data", "color_message")


def configure_logging() -> None:
    """Send the logs of the application and of all libraries through one handler.

    https://www.structlog.org/en/stable/standard-library.html#rendering-using-structlog-based-formatters-within-logging
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
    ]
    last: list[Processor] = [
        structlog.processors.format_exc_info,
        _redact_event,
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    if settings.app.ENVIRONMENT == "production":
        last = [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            _redact_event,
            structlog.processors.JSONRenderer(default=str),
        ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.app.LOG_LEVEL, force=True)
    for name in ("uvicorn", "uvicorn.access"):  # Uvicorn has given them handlers of their own.
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").addFilter(_clean_access_log)
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


def redact(value: Any) -> Any:
    """Return a copy of a value in which secrets are replaced."""
    if isinstance(value, str):
        return SECRET_TEXT.sub(r"\1\2***", value)
    if isinstance(value, dict):
        return {
            key: "***" if isinstance(key, str) and SECRET_NAME.search(key) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    if request_id := correlation_id.get():
        event["request_id"] = request_id
    return event


def _redact_event(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {key: item for key, item in redact(event).items() if key not in UNWANTED}


def _clean_access_log(record: logging.LogRecord) -> bool:
    """Remove the query string, which may be secret, and the lines of health checks."""
    if isinstance(record.args, tuple) and len(record.args) == 5:
        client, method, address, version, status = record.args
        path = str(address).partition("?")[0]
        record.args = (client, method, path, version, status)
        return path not in ("/health/live", "/metrics")
    return True
