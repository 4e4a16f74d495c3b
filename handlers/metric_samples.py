"""What a metric is made of: type, unit, dimensions, and one recorded value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class MetricTypes(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class NamedValue(Protocol):
    """A dimension: anything with a name and a value."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Dimension:
    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One recorded value. `request_id` holds several ids, joined by commas, where it belongs to a whole batch."""

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
