"""Sends traces to an OpenTelemetry collector. Imported only if one is configured.

Traces contain no arguments, query strings, values in SQL or texts of exceptions: they may be secret.
"""

from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode
from sqlalchemy import Connection, Engine, ExceptionContext, event

from app.core.config.settings import settings

SPANS = "spans"

provider = TracerProvider(
    resource=Resource.create({"service.name": settings.monitoring.OTEL_SERVICE_NAME})
)
tracer = provider.get_tracer(__name__)


class QueryStringRemover(SpanProcessor):
    """Removes the query string, which FastAPI adds to the span of a request."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Change a span that has just started."""
        if span.attributes and "url.query" in span.attributes:
            span.set_attribute("url.query", "REDACTED")


def configure_tracing() -> None:
    """Start tracing requests, tasks and SQL statements."""
    endpoint = settings.monitoring.OTEL_EXPORTER_OTLP_ENDPOINT.rstrip("/")
    provider.add_span_processor(QueryStringRemover())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    trace.set_tracer_provider(provider)
    event.listen(Engine, "before_cursor_execute", _begin_statement)
    event.listen(Engine, "after_cursor_execute", _end_statement)
    event.listen(Engine, "handle_error", _fail_statement)


# As in https://docs.sqlalchemy.org/en/21/faq/performance.html#query-profiling


def _begin_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
    span: trace.Span = INVALID_SPAN
    if trace.get_current_span().is_recording():
        attributes = {"db.system.name": connection.dialect.name, "db.query.text": statement}
        name = statement.split(maxsplit=1)[0]
        span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    connection.info.setdefault(SPANS, []).append(span)


def _end_statement(connection: Connection, *_: Any) -> None:
    connection.info[SPANS].pop().end()


def _fail_statement(context: ExceptionContext) -> None:
    if context.connection and context.connection.info.get(SPANS):
        span = context.connection.info[SPANS].pop()
        span.set_attribute("error.type", type(context.original_exception).__name__)
        span.set_status(StatusCode.ERROR)
        span.end()
