"""Metrics that are declared once and updated often: `add_metric_to_cache`, `get_metric` and what they return.

Names, rules and texts are those of TorchServe's metrics API. A value that cannot be recorded is logged and dropped: no
request fails because of its metrics.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from handlers.metric_samples import UNIT_NAMES, MetricSample, MetricTypes, NamedValue

Emit = Callable[[MetricSample], None]

# The text of a value may be as long as a request.
_MAX_VALUE_CHARACTERS = 100

log = logging.getLogger(__name__)


class MetricsCacheTypeError(TypeError):
    """A metric is declared or looked up with an argument of the wrong type."""


class MetricsCacheValueError(ValueError):
    """A metric is recorded in a unit that its kind does not have."""


class MetricsCacheKeyError(KeyError):
    """No metric of that type and name has been declared."""


def _emit_nowhere(sample: MetricSample) -> None:
    pass


class CachingMetric:
    """One declared metric.

    Args:
        metric_name: its name.
        unit: ms, s, percent, count, MB, GB, kB, B, or any other text.
        dimension_names: names that belong to the values given with each update.
        metric_type: counter, gauge or histogram.
        emit: takes each sample. Without it nobody does: metrics that are to be seen come from `add_metric_to_cache`.
    """

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
        emit: Emit = _emit_nowhere,
    ) -> None:
        self.metric_name = metric_name
        self.unit = UNIT_NAMES.get(unit, unit)
        self.dimension_names = list(dimension_names or ())
        self.metric_type = metric_type
        self._emit = emit

    def add_or_update(self, value: Any, dimension_values: Sequence[Any] = (), request_id: str = "") -> None:
        """Adds to a counter, sets a gauge, observes in a histogram.

        Values that are no finite number, negative increments of a counter, and values for other than the declared
        dimensions are logged and dropped.

        Args:
            value: whatever float() takes: numbers, numpy scalars, tensors of one element.
            dimension_values: one per dimension name, in the same order.
            request_id: ids of the requests it belongs to, joined by commas.
        """
        dimensions: tuple[tuple[str, str], ...] = ()
        try:
            dimensions = self._dimensions(dimension_values)
            number = self._number(value)
        except ValueError as error:
            log.error(
                "[METRICS]Failed to update metric with name:%s and dimensions: %s with value: %s: %s",
                self.metric_name,
                ",".join(f"{name}:{text}" for name, text in dimensions),
                str(value)[:_MAX_VALUE_CHARACTERS],
                error,
            )
        else:
            self._emit(MetricSample(self.metric_name, number, self.unit, self.metric_type, dimensions, request_id))

    def update(self, value: Any, request_id: str = "", dimensions: Sequence[NamedValue] = ()) -> None:
        """The older form of `add_or_update`; from here on the metric has these dimensions."""
        log.warning("Overriding existing dimensions")
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)

    def _dimensions(self, values: Sequence[Any]) -> tuple[tuple[str, str], ...]:
        if values is None or len(values) != len(self.dimension_names):
            raise ValueError(f"Dimension values: {values} should correspond to Dimension names: {self.dimension_names}")
        return tuple((str(name), str(value)) for name, value in zip(self.dimension_names, values, strict=True))

    def _number(self, value: Any) -> float:
        try:
            number = float(value)
        except Exception as error:  # whatever the value's own conversion raises
            raise ValueError(f"{type(value).__name__} is no number") from error
        if not math.isfinite(number):
            raise ValueError("only finite numbers can be recorded")
        if self.metric_type is MetricTypes.COUNTER and number < 0:
            raise ValueError("Counter metric update value cannot be negative")
        return number


class MetricCache:
    """The metrics declared so far.

    Attributes:
        cache: type to name to metric.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Declares a metric, in place of one of the same type and name; nothing is recorded yet.

        Raises:
            MetricsCacheTypeError: an argument is not of the type it is declared with.
        """
        _check_key(metric_name, metric_type)
        if not isinstance(unit, str):
            raise MetricsCacheTypeError("`unit` must be a str")
        if dimension_names and not isinstance(dimension_names, list):
            raise MetricsCacheTypeError("`dimension_names` should be a list of dimension name strings")
        named = self.cache.setdefault(metric_type, {})
        if metric_name in named:
            log.warning("Overriding existing key %s:%s", metric_type, metric_name)
        named[metric_name] = CachingMetric(metric_name, unit, dimension_names, metric_type, self._emit)
        return named[metric_name]

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """A metric declared before.

        Raises:
            MetricsCacheKeyError: there is none of that type and name.
            MetricsCacheTypeError: the name is no str or the type no MetricTypes.
        """
        _check_key(metric_name, metric_type)
        try:
            return self.cache[metric_type][metric_name]
        except KeyError:
            raise MetricsCacheKeyError(
                f"Metric of type '{metric_type}' and name '{metric_name}' doesn't exist"
            ) from None

    def cache_keys(self) -> list[str]:
        """`type:name` of every declared metric."""
        return [f"{metric_type.value}:{name}" for metric_type, named in self.cache.items() for name in named]


def _check_key(metric_name: object, metric_type: object) -> None:
    if not isinstance(metric_name, str):
        raise MetricsCacheTypeError("`metric_name` must be a str")
    if not isinstance(metric_type, MetricTypes):
        raise MetricsCacheTypeError("`metric_type` must be a MetricTypes enum")
