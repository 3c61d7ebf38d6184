"""Monitoring settings: metrics, traces and error reports. See ``docs/monitoring.md``."""

from pydantic import Field

from app.core.config.base import SettingsGroup


class MonitoringSettings(SettingsGroup):
    """Monitoring settings. An empty value turns the feature off."""

    # The Bearer token that GET /metrics requires. Without one, only loopback clients get an answer.
    METRICS_TOKEN: str = Field(default="", repr=False)
    # The address of an OpenTelemetry collector, such as http://localhost:4318, without a path.
    OTEL_EXPORTER_OTLP_ENDPOINT: str = Field(default="", pattern=r"^(https?://\S+)?$")
    OTEL_SERVICE_NAME: str = "{{ cookiecutter.project_slug }}"
    SENTRY_DSN: str = Field(default="", pattern=r"^(https?://\S+)?$", repr=False)
