"""Measures the machine again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from model_server.metrics.server_metrics import ServerMetrics
from model_server.metrics.system import measure


async def watch_system(metrics: ServerMetrics, interval_s: float, gpus: Sequence[str]) -> None:
    """Until it is cancelled; the first time at once. `gpus`: as for `measure`."""
    while True:
        for sample in await asyncio.to_thread(measure, gpus):
            metrics.record(sample.name, sample.dimensions, sample.value)
        await asyncio.sleep(interval_s)
