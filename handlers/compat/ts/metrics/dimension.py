"""`ts.metrics.dimension`."""

from handlers.metric_samples import Dimension

__all__ = ["Dimension"]
