"""`ts.metrics.caching_metric`."""

from handlers.metric_cache import CachingMetric

__all__ = ["CachingMetric"]
