"""Traces with OpenTelemetry and error reports with Sentry.

Both are off unless they are configured, and their packages are not imported before.
"""

from typing import Any

from app.core.config.settings import settings
from app.core.logging import redact


def configure_telemetry() -> None:
    """Send traces and error reports from now on, if they are configured."""
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
    """Send what has not been sent, for a process that ends without the usual clean-up."""
    if settings.monitoring.OTEL_EXPORTER_OTLP_ENDPOINT:
        from app.core.tracing import provider

        provider.force_flush(5_000)


def _redact_event(event: Any, _hint: object) -> Any:
    event.get("request", {}).pop("query_string", None)
    return redact(event)
