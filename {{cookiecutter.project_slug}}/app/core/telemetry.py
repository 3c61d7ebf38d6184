"""Traces with OpenTelemetry and error reports with Sentry.

Both are off unless they are configured; otherwise their packages are not imported.
"""

from typing import Any

from app.core.config.settings import settings
from app.core.logging import redact


def configure_telemetry() -> None:
    """Start sending traces and error reports, if they are configured."""
    if settings.monitoring.OTEL_EXPORTER_OTLP_ENDPOINT:
        from app.core.tracing import configure_tracing

        configure_tracing()
    if settings.monitoring.SENTRY_DSN:
        import sentry_sdk

        sentry_sdk.init(
            settings.monitoring.SENTRY_DSN,
            environment=settings.app.ENVIRONMENT,
            before_send=_redact_event,
            # Arguments, results and local variables may be secret.
            include_local_variables=False,
            max_request_body_size="never",
            send_default_pii=False,
        )


def flush_telemetry() -> None:
    """Send pending traces, in a process that ends without running exit handlers."""
    if settings.monitoring.OTEL_EXPORTER_OTLP_ENDPOINT:
        from app.core.tracing import provider

        provider.force_flush(5_000)


def _redact_event(event: Any, _hint: object) -> Any:
    event.get("request", {}).pop("query_string", None)
    return redact(event)
