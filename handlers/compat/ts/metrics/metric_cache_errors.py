"""`ts.metrics.metric_cache_errors`."""

from handlers.metric_cache import MetricsCacheKeyError, MetricsCacheTypeError, MetricsCacheValueError

__all__ = ["MetricsCacheKeyError", "MetricsCacheTypeError", "MetricsCacheValueError"]
