"""Samples as TorchServe's metric logs have them, which log pipelines parse.

Name.Unit:value|#Dim:value,Dim:value|#hostname:host[,requestID:id],timestamp:epoch seconds
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from model_server.config.metrics_file import DeclaredMetric
from model_server.metrics.exposition import java_double

MetricLog = Literal["TS_METRICS", "MODEL_METRICS"]
# Takes one line, without blocking.
WriteLine = Callable[[MetricLog, str], None]


def line(declared: DeclaredMetric, values: tuple[str, ...], amount: float, request_id: str = "") -> str:
    """`values` in the order of the metric's dimensions, the last of which is the host."""
    named = zip(declared.dimensions[:-1], values[:-1], strict=True)
    dimensions = ",".join(f"{name}:{value}" for name, value in named)
    request = f",requestID:{request_id}" if request_id else ""
    host = values[-1] if values else ""
    sample = f"{declared.name}.{declared.unit}:{java_double(amount)}|#{dimensions}"
    return f"{sample}|#hostname:{host}{request},timestamp:{int(time.time())}"
