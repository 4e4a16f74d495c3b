"""CPU, memory, disk and GPUs of this machine, measured every so often."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from model_server.metrics.gpus import GpuReading

log = logging.getLogger(__name__)

_HOST = "Host"
_MIB, _GIB = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class SystemSample:
    name: str
    dimensions: tuple[str, ...]
    value: float


def measure_host() -> list[SystemSample]:
    """Takes a tenth of a second, on a thread of its own. What cannot be measured is left out."""
    return list(_of_host())


def _of_host() -> Iterator[SystemSample]:
    memory = psutil.virtual_memory()
    readings: dict[str, Callable[[], float]] = {
        "CPUUtilization": lambda: psutil.cpu_percent(interval=0.1),
        "MemoryUsed": lambda: memory.used / _MIB,
        "MemoryAvailable": lambda: memory.available / _MIB,
        "MemoryUtilization": lambda: memory.percent,
        "DiskUsage": lambda: psutil.disk_usage("/").used / _GIB,
        "DiskUtilization": lambda: psutil.disk_usage("/").percent,
        "DiskAvailable": lambda: psutil.disk_usage("/").free / _GIB,
    }
    for name, read in readings.items():
        try:
            yield SystemSample(name, (_HOST,), float(read()))
        except (OSError, psutil.Error) as error:
            log.warning("%s could not be measured: %s", name, error)


def of_gpus(readings: Sequence[GpuReading], used: Sequence[str]) -> Iterator[SystemSample]:
    """`used`: the devices that the server uses, as CUDA_VISIBLE_DEVICES names them."""
    for gpu in readings:
        if any(map(gpu.is_called, used)):
            dimensions = (_HOST, str(gpu.index))
            if gpu.memory_used_mib is not None and gpu.memory_total_mib:
                used_percent = 100 * gpu.memory_used_mib / gpu.memory_total_mib
                yield SystemSample("GPUMemoryUtilization", dimensions, used_percent)
            if gpu.memory_used_mib is not None:
                yield SystemSample("GPUMemoryUsed", dimensions, float(gpu.memory_used_mib))
            if gpu.utilization_percent is not None:
                yield SystemSample("GPUUtilization", dimensions, float(gpu.utilization_percent))
