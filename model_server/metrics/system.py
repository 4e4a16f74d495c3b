"""CPU, memory, disk and GPUs of this machine, measured every so often.

Sources: psutil; nvidia-smi for GPUs, because the frontend must not open a device.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

log = logging.getLogger(__name__)

_HOST = "Host"
_MIB, _GIB = 1 << 20, 1 << 30
_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=index,memory.used,memory.total,utilization.gpu",
    "--format=csv,noheader,nounits",
)
_NVIDIA_SMI_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class SystemSample:
    name: str
    dimensions: tuple[str, ...]
    value: float


def measure(gpu_count: int) -> list[SystemSample]:
    """Everything at once; takes a tenth of a second, on a thread of its own. What cannot be measured is left out."""
    samples = list(_of_host())
    return samples + list(_of_gpus(gpu_count)) if gpu_count else samples


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


def _of_gpus(gpu_count: int) -> Iterator[SystemSample]:
    try:
        listing = subprocess.run(
            _NVIDIA_SMI, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("GPUs could not be measured: %s", error)
        return
    for text in listing.splitlines()[:gpu_count]:
        fields = [field.strip() for field in text.split(",")]
        if len(fields) != 4 or not all(field.isdigit() for field in fields):
            continue  # a device that fell off the bus
        index, used_mib, total_mib, utilization = fields
        yield SystemSample("GPUMemoryUtilization", (_HOST, index), 100 * int(used_mib) / max(1, int(total_mib)))
        yield SystemSample("GPUMemoryUsed", (_HOST, index), float(used_mib))
        yield SystemSample("GPUUtilization", (_HOST, index), float(utilization))
