"""`ts.metrics.metric`."""

from handlers.metrics_store import Metric

__all__ = ["Metric"]
