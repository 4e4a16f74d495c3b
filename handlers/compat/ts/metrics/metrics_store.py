"""`ts.metrics.metrics_store`."""

from handlers.metrics_store import MetricsStore

__all__ = ["MetricsStore"]
