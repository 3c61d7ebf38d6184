"""Metrics in the text format of Prometheus.

Requests are counted when they end, for all API processes together if these share
``PROMETHEUS_MULTIPROC_DIR``. All other metrics are read when they are scraped.
https://prometheus.github.io/client_python/multiprocess/
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from fastapi.telemetry import TelemetryConfig
from opentelemetry.metrics import Histogram, Meter, MeterProvider, NoOpHistogram, NoOpMeter
from prometheus_client import REGISTRY, CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.core.health import Probe, check_dependencies, describe

log = structlog.get_logger(__name__)

# The series ``*_created`` would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]

Source = Probe[list[Metric]]

# Requests to these paths are not measured: they would outnumber all others.
UNMEASURED = ("/health/live", "/health/ready", "/metrics")

REQUEST_DURATION = PrometheusHistogram(
    "http_request_duration_seconds",
    "Duration of HTTP requests, by route and status.",
    ["method", "route", "status"],
)


class RequestDuration(NoOpHistogram):
    """The duration of requests, as FastAPI measures it."""

    def record(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        """Count one request."""
        REQUEST_DURATION.labels(
            method=attributes["http.request.method"],
            route=attributes.get("http.route", "unknown"),
            status=attributes.get("http.response.status_code", 500),
        ).observe(amount)


class PrometheusMeter(NoOpMeter):
    """A meter that records the duration of requests and nothing else."""

    def create_histogram(self, name: str, *args: Any, **kwargs: Any) -> Histogram:
        """Return ``RequestDuration`` for the duration of requests."""
        if name == "http.server.request.duration":
            return RequestDuration(name)
        return super().create_histogram(name, *args, **kwargs)


class PrometheusMeterProvider(MeterProvider):
    """Passes FastAPI's measurements to the Prometheus client.

    https://fastapi.tiangolo.com/advanced/opentelemetry/
    """

    def get_meter(self, name: str, *args: Any, **kwargs: Any) -> Meter:
        """Return the meter for a library."""
        return PrometheusMeter(name)


# The telemetry settings of the FastAPI application.
TELEMETRY: TelemetryConfig = {
    "meter_provider": PrometheusMeterProvider(),
    "exclude": lambda scope: scope["path"] in UNMEASURED,
    "auto_configure": False,
}


class Metrics(Collector):
    """A collector of metrics that have been read before."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._metrics


def gauge(
    name: str, description: str, labels: list[str], values: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    """Return a gauge with the values for some label values."""
    metric = GaugeMetricFamily(name, description, labels=labels)
    for label_values, value in values:
        metric.add_metric(label_values, value)
    return metric


async def scrape(version: str, sources: list[Source]) -> bytes:
    """Return all metrics as text, within two seconds. What cannot be read is left out."""
    reading = asyncio.gather(*map(_read, sources))
    dependencies = await check_dependencies()
    results = dict(zip(sources, await reading, strict=True))
    metrics = [
        gauge("app_info", "The version of the application.", ["version"], [([version], 1)]),
        gauge(
            "dependency_up",
            "Whether a dependency answers.",
            ["dependency"],
            [([name], state == "ok") for name, state in dependencies.items()],
        ),
        gauge(
            "scrape_source_up",
            "Whether metrics could be read from a source.",
            ["source"],
            [([source.name], result is not None) for source, result in results.items()],
        ),
    ]
    for result in results.values():
        metrics += result or []
    registry = CollectorRegistry()
    registry.register(Metrics(metrics))
    return generate_latest(_requests()) + generate_latest(registry)


async def _read(source: Source) -> list[Metric] | None:
    try:
        return await source.call()
    except Exception as error:
        log.warning("metrics not read", source=source.name, error=describe(error))
        return None


def _requests() -> CollectorRegistry:
    """Return the metrics of this process, or of all that share the folder."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
