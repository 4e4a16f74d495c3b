"""Measures the machine again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from model_server.metrics.gpus import RecentGpus
from model_server.metrics.server_metrics import ServerMetrics
from model_server.metrics.system import SystemSample, measure_host, of_gpus

log = logging.getLogger(__name__)


async def watch_system(metrics: ServerMetrics, interval_s: float, gpus: Sequence[str]) -> None:
    """Until it is cancelled; the first time at once. `gpus`: those in use, as CUDA_VISIBLE_DEVICES names them."""
    readings = RecentGpus()
    while True:
        try:
            for sample in await _measure(readings, gpus):
                metrics.record(sample.name, sample.dimensions, sample.value)
        except Exception:  # whatever it is, it must not end the server
            log.exception("The machine could not be measured.")
        await asyncio.sleep(interval_s)


async def _measure(readings: RecentGpus, gpus: Sequence[str]) -> list[SystemSample]:
    samples = await asyncio.to_thread(measure_host)
    return samples + list(of_gpus(await readings.read(), gpus)) if gpus else samples
