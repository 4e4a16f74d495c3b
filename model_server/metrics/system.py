"""CPU, memory, disk and GPUs of this machine, measured every so often."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil

from model_server.metrics.gpus import read_gpus

log = logging.getLogger(__name__)

_HOST = "Host"
_MIB, _GIB = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class SystemSample:
    name: str
    dimensions: tuple[str, ...]
    value: float


def measure(gpus: Sequence[str]) -> list[SystemSample]:
    """Everything at once; takes a tenth of a second, on a thread of its own. What cannot be measured is left out.

    Args:
        gpus: the devices that the server uses, as CUDA_VISIBLE_DEVICES names them.
    """
    return [*_of_host(), *(_of_gpus(gpus) if gpus else ())]


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


def _of_gpus(names: Sequence[str]) -> Iterator[SystemSample]:
    for gpu in read_gpus():
        if any(map(gpu.is_called, names)):
            used_percent = 100 * gpu.memory_used_mib / max(1, gpu.memory_total_mib)
            dimensions = (_HOST, str(gpu.index))
            yield SystemSample("GPUMemoryUtilization", dimensions, used_percent)
            yield SystemSample("GPUMemoryUsed", dimensions, float(gpu.memory_used_mib))
            yield SystemSample("GPUUtilization", dimensions, float(gpu.utilization_percent))
