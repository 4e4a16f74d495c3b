"""Measures the machine again and again."""

from __future__ import annotations

import asyncio

from model_server.metrics.server_metrics import ServerMetrics
from model_server.metrics.system import measure


async def watch_system(metrics: ServerMetrics, interval_s: float, gpu_count: int) -> None:
    """Until it is cancelled; the first time at once."""
    while True:
        for sample in await asyncio.to_thread(measure, gpu_count):
            metrics.record(sample.name, sample.dimensions, sample.value)
        await asyncio.sleep(interval_s)
