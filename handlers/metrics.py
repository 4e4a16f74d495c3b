"""`context.metrics`: counters, gauges and histograms that a handler records.

The recorder only hands samples on; where they go (a message to the server, a list in a test) is its owner's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handlers.metric_cache import CachingMetric, Emit, MetricCache, MetricsCacheKeyError, MetricsCacheValueError
from handlers.metric_samples import Dimension, MetricSample, MetricTypes, NamedValue

__all__ = ["Dimension", "MetricSample", "MetricTypes", "MetricsRecorder"]

_TIME_UNITS = ("ms", "s")
_SIZE_UNITS = ("MB", "kB", "GB", "B")


class MetricsRecorder(MetricCache):
    """TorchServe's metrics object: `add_metric_to_cache` and `get_metric`, and `add_*`, which declare as they record.

    The first use of a name declares its unit and its dimensions; later uses with another number of dimensions are
    logged and dropped. Dimensions `ModelName` and `Level` are added where absent, in `add_error` only `Level`.

    Args:
        model_name: value of the dimension `ModelName`.
        emit: called once per sample, at once.
        config_file_path: the metrics configuration of the server, for handlers that read it.

    Attributes:
        request_ids: ids of the current batch by index; None outside of batches.
        store: always empty; handlers written for the store of earlier versions look at it.
    """

    def __init__(self, model_name: str, emit: Emit, config_file_path: str | None = None) -> None:
        super().__init__(emit)
        self.model_name = model_name
        self.config_file_path = config_file_path
        self.request_ids: dict[int, str] | None = None
        self.store: list[Any] = []

    def set_request_ids(self, request_ids: dict[int, str] | None) -> None:
        self.request_ids = request_ids

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[NamedValue] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Records one value for request `idx` of the batch, or for all of its requests.

        Raises:
            MetricsCacheTypeError: name or unit is no str, or the type no MetricTypes.
        """
        self._record(name, value, unit, self._with_defaults(dimensions), metric_type, self._request_id(idx))

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[NamedValue] = ()
    ) -> None:
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[NamedValue] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Records a duration in ms or s; any other unit raises MetricsCacheValueError."""
        if unit not in _TIME_UNITS:
            raise MetricsCacheValueError("the unit for a timed metric should be one of ['ms', 's']")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[NamedValue] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Records a size in MB, kB, GB or B; any other unit raises ValueError."""
        if unit not in _SIZE_UNITS:
            raise ValueError("The unit for size based metric is one of ['MB','kB', 'GB', 'B']")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[NamedValue] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Sequence[NamedValue] = ()) -> None:
        labelled = _completed(dimensions, [Dimension("Level", "Error")])
        self._record(name, value, "", labelled, MetricTypes.COUNTER, "")

    def _record(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[NamedValue],
        metric_type: MetricTypes,
        request_id: str,
    ) -> None:
        metric = self._declared(name, unit, [dimension.name for dimension in dimensions], metric_type)
        metric.add_or_update(value, [dimension.value for dimension in dimensions], request_id)

    def _declared(self, name: str, unit: str, dimension_names: list[str], metric_type: MetricTypes) -> CachingMetric:
        try:
            return self.get_metric(name, metric_type)
        except MetricsCacheKeyError:
            return self.add_metric_to_cache(name, unit, dimension_names, metric_type)

    def _with_defaults(self, dimensions: Sequence[NamedValue]) -> list[NamedValue]:
        return _completed(dimensions, [Dimension("ModelName", self.model_name), Dimension("Level", "Model")])

    def _request_id(self, idx: int | None) -> str:
        request_ids = self.request_ids or {}
        if idx in request_ids:
            return request_ids[idx]
        return ",".join(request_ids.values())


def _completed(dimensions: Sequence[NamedValue], defaults: Sequence[NamedValue]) -> list[NamedValue]:
    present = {dimension.name for dimension in dimensions}
    return [*dimensions, *(default for default in defaults if default.name not in present)]
