"""`ts.metrics.metric_type_enum`."""

from handlers.metric_samples import MetricTypes

__all__ = ["MetricTypes"]
