"""Samples as TorchServe's metric logs have them, which log pipelines parse.

Name.Unit:value|#Dim:value,Dim:value|#hostname:host[,requestID:id],timestamp:epoch seconds
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from model_server.config.metrics_file import DeclaredMetric
from model_server.metrics.exposition import java_double
from model_server.metrics.series import MOST_CHILDREN

MetricLog = Literal["TS_METRICS", "MODEL_METRICS"]
# Takes what makes one line, without blocking: log, text from seconds since the epoch and arguments, the arguments, the
# request's id, which the text has already, the rough length.
WriteLater = Callable[[MetricLog, Callable[..., str], tuple[Any, ...], None, int], None]
# A line without ids of requests.
_CHARACTERS = 200


class LineWriter:
    """Lines of one metric. The state here is their constant parts, which are the greater part of the work."""

    def __init__(self, declared: DeclaredMetric, log_name: MetricLog, write: WriteLater) -> None:
        self._declared = declared
        self._begin = f"{declared.name}.{declared.unit}:"
        self._log_name = log_name
        self._write = write
        self._parts: dict[tuple[str, ...], str] = {}

    def __call__(self, values: tuple[str, ...], amount: float, request_id: str = "") -> None:
        """`values` in the order of the metric's dimensions, the last of which is the host."""
        self._write(self._log_name, self._text, (values, amount, request_id), None, _CHARACTERS + len(request_id))

    def _text(self, created_s: float, values: tuple[str, ...], amount: float, request_id: str) -> str:
        behind = self._parts.get(values) or self._new_parts(values)
        request = f",requestID:{request_id}" if request_id else ""
        return f"{self._begin}{java_double(amount)}{behind}{request},timestamp:{int(created_s)}"

    def _new_parts(self, values: tuple[str, ...]) -> str:
        named = zip(self._declared.dimensions[:-1], values[:-1], strict=True)
        dimensions = ",".join(f"{name}:{value}" for name, value in named)
        behind = f"|#{dimensions}|#hostname:{values[-1] if values else ''}"
        if len(self._parts) < MOST_CHILDREN:
            self._parts[values] = behind
        return behind
