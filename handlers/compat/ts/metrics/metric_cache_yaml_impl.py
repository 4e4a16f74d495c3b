"""`ts.metrics.metric_cache_yaml_impl`."""

from handlers.metrics import MetricsRecorder as MetricsCacheYamlImpl

__all__ = ["MetricsCacheYamlImpl"]
