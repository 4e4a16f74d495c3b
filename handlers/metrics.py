"""`context.metrics`: counters, gauges and histograms that a handler records.

The recorder only hands samples on; where they go (a message to the server, a list in a test) is its owner's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class MetricTypes(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class NamedValue(Protocol):
    """A dimension: anything with a name and a value (`ts.metrics.dimension.Dimension` is one)."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Dimension:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class MetricSample:
    name: str
    value: float
    unit: str
    type: MetricTypes
    dimensions: tuple[tuple[str, str], ...]
    request_id: str = ""


UNIT_NAMES = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "kB": "Kilobytes",
    "B": "Bytes",
    "": "unit",
}


class MetricsRecorder:
    """The `add_*` methods of TorchServe's metrics object.

    Args:
        model_name: value of the default dimension `ModelName`.
        emit: called once per sample, at once.
    """

    def __init__(self, model_name: str, emit: Callable[[MetricSample], None]) -> None:
        self.model_name = model_name
        self.request_ids: dict[int, str] = {}
        self._emit = emit

    def set_request_ids(self, request_ids: dict[int, str]) -> None:
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
        """Records one value; dimensions `ModelName` and `Level` are added where absent."""
        pairs = [(dimension.name, str(dimension.value)) for dimension in dimensions]
        present = {name for name, _ in pairs}
        defaults = (("ModelName", self.model_name), ("Level", "Model"))
        pairs += [pair for pair in defaults if pair[0] not in present]
        unit_name = UNIT_NAMES.get(unit or "", unit)
        self._emit(MetricSample(name, float(value), unit_name, metric_type, tuple(pairs), self._request_id(idx)))

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
        if unit not in ("ms", "s"):
            raise ValueError("the unit for a timed metric should be one of ['ms', 's']")
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
        if unit not in ("MB", "kB", "GB", "B"):
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
        self.add_metric(name, value, "", None, [*dimensions, Dimension("Level", "Error")])

    def _request_id(self, idx: int | None) -> str:
        if idx is not None:
            return self.request_ids.get(idx, "")
        return ",".join(self.request_ids.values())
