"""What the GPUs of this machine do at the moment.

Source: nvidia-smi, because the frontend must not open a device.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

log = logging.getLogger(__name__)

_FIELDS = "index,uuid,memory.used,memory.total,utilization.gpu,utilization.memory"
_NVIDIA_SMI = ("nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits")
_TIMEOUT_S = 10
# A reading starts a process, and many may ask.
_FRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One device; shares in percent of the last moments' time."""

    index: int
    uuid: str
    memory_used_mib: int
    memory_total_mib: int
    utilization_percent: int
    memory_utilization_percent: int

    def is_called(self, name: str) -> bool:
        """By its index or its UUID, which may be cut short, as in CUDA_VISIBLE_DEVICES."""
        return name == str(self.index) or (name.startswith("GPU-") and self.uuid.startswith(name))


def read_gpus() -> list[GpuReading]:
    """Every device that tells; takes a tenth of a second, on a thread of its own. Nothing, and a warning, when none."""
    try:
        ended = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("GPUs could not be measured: %s", error)
        return []
    return list(_parse(ended.stdout.splitlines()))


def _parse(lines: Iterable[str]) -> Iterable[GpuReading]:
    for line in lines:
        fields = [field.strip() for field in line.split(",")]
        # A device that fell off the bus, or one that is cut in parts, has no numbers.
        if len(fields) == 6 and all(field.isdigit() for field in (fields[0], *fields[2:])):
            index, uuid, *numbers = fields
            yield GpuReading(int(index), uuid, *map(int, numbers))


class RecentGpus:
    """The state here is the last reading, which holds for a second."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._read_s = -_FRESH_S
        self._gpus: list[GpuReading] = []

    async def read(self) -> list[GpuReading]:
        async with self._reading:
            if time.monotonic() - self._read_s >= _FRESH_S:
                self._gpus = await asyncio.to_thread(read_gpus)
                self._read_s = time.monotonic()
            return self._gpus
