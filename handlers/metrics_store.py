"""TorchServe's former metrics object: values in memory, one per name, unit, request and dimensions.

Test contexts made for TorchServe still hand it to handlers.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from handlers.metric_samples import UNIT_NAMES, Dimension, NamedValue

Dimensions = list[NamedValue] | None


class Metric:
    """One value. Updates add to it where `metric_method` is "counter" and replace it otherwise.

    Args:
        name: its name.
        value: a number, or text for errors.
        unit: ms, s, percent, count, MB, GB, kB, B, or any other text.
        dimensions: objects with a name and a value.
        request_id: ids of the requests it belongs to, joined by commas.
        metric_method: "counter" or None.
    """

    def __init__(
        self,
        name: str,
        value: Any,
        unit: str,
        dimensions: Sequence[NamedValue],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = UNIT_NAMES.get(unit, unit)
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: Any) -> None:
        self.value = self.value + value if self.metric_method == "counter" else value

    def reset(self) -> None:
        self.value = 0

    def __str__(self) -> str:
        """A line of TorchServe's metrics log: `name.unit:value|#dimensions|#hostname:host,time[,request id]`."""
        dimensions = ",".join(f"{dimension.name}:{dimension.value}" for dimension in self.dimensions)
        origin = [socket.gethostname(), str(int(time.time()))] + ([self.request_id] if self.request_id else [])
        return f"{self.name}.{self.unit}:{self.value}|#{dimensions}|#hostname:{','.join(origin)}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }


class MetricsStore:
    """Collects metrics; nothing is sent anywhere.

    Args:
        request_ids: ids of the batch by index, or one id for all of it.
        model_name: value of the dimension `ModelName`.

    Attributes:
        store: every metric, oldest first.
        cache: the same by name, unit, request and dimensions.
    """

    def __init__(self, request_ids: dict[int, str] | str | None, model_name: str) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.store: list[Metric] = []
        self.cache: dict[str, Metric] = {}

    def add_metric(
        self, name: str, value: Any, unit: str, idx: int | None = None, dimensions: Dimensions = None
    ) -> None:
        self._add_or_update(name, value, self._request_id(idx), unit, dimensions)

    def add_counter(self, name: str, value: Any, idx: int | None = None, dimensions: Dimensions = None) -> None:
        self._add_or_update(name, value, self._request_id(idx), "count", dimensions, "counter")

    def add_time(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Dimensions = None,
    ) -> None:
        """Raises ValueError for a unit other than ms and s."""
        if unit not in ("ms", "s"):
            raise ValueError("the unit for a timed metric should be one of ['ms', 's']")
        self.add_metric(name, value, unit, idx, dimensions)

    def add_size(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Dimensions = None,
    ) -> None:
        """Raises ValueError for a unit other than MB, kB, GB and B."""
        if unit not in ("MB", "kB", "GB", "B"):
            raise ValueError("The unit for size based metric is one of ['MB','kB', 'GB', 'B']")
        self.add_metric(name, value, unit, idx, dimensions)

    def add_percent(self, name: str, value: Any, idx: int | None = None, dimensions: Dimensions = None) -> None:
        self.add_metric(name, value, "percent", idx, dimensions)

    def add_error(self, name: str, value: Any, dimensions: Dimensions = None) -> None:
        self._add_or_update(name, value, None, "", dimensions)

    def _add_or_update(
        self,
        name: str,
        value: Any,
        request_id: str | None,
        unit: str,
        dimensions: Dimensions,
        method: str | None = None,
    ) -> None:
        if dimensions is not None and not isinstance(dimensions, list):
            raise ValueError("Please provide a list of dimensions")
        labelled = [*(dimensions or []), *self._own_dimensions(request_id)]
        key = "-".join([name, unit, str(request_id), *(f"{each.name}:{each.value}" for each in labelled)])
        if key in self.cache:
            self.cache[key].update(value)
            return
        self.cache[key] = Metric(name, value, unit, labelled, request_id, method)
        self.store.append(self.cache[key])

    def _own_dimensions(self, request_id: str | None) -> list[Dimension]:
        if request_id is None:
            return [Dimension("Level", "Error")]
        return [Dimension("ModelName", self.model_name), Dimension("Level", "Model")]

    def _request_id(self, idx: int | None) -> str | None:
        if not isinstance(self.request_ids, dict):
            return self.request_ids
        if idx in self.request_ids:
            return self.request_ids[idx]
        return ",".join(self.request_ids.values())
