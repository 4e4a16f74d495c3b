"""What the GPUs of this machine do at the moment.

Source: nvidia-smi, because the frontend must not open a device.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

_FIELDS = "index,uuid,memory.used,memory.total,utilization.gpu,utilization.memory"
_NVIDIA_SMI = ("nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits")
# A driver in trouble makes nvidia-smi hang.
_TIMEOUT_S = 10
# A reading starts a process, and many may ask.
_FRESH_S = 1.0
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One device; shares in percent of the last moments' time. None: it does not tell."""

    index: int
    uuid: str
    memory_used_mib: int | None
    memory_total_mib: int | None
    utilization_percent: int | None
    memory_utilization_percent: int | None

    def is_called(self, name: str) -> bool:
        """By its index or its UUID, which may be cut short, as in CUDA_VISIBLE_DEVICES."""
        return name == str(self.index) or (name.startswith("GPU-") and self.uuid.startswith(name))


def read_gpus() -> list[GpuReading]:
    """Every device there is; takes a tenth of a second or longer. Nothing, and a warning, when nobody can tell."""
    try:
        ended = subprocess.run(
            _NVIDIA_SMI, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("GPUs could not be measured: %s", error)
        return []
    return list(_parse(ended.stdout.splitlines()))


def _parse(lines: Iterable[str]) -> Iterable[GpuReading]:
    for line in lines:
        fields = [field.strip() for field in line.split(",")]
        # A device that fell off the bus is a line of text.
        if len(fields) == 6 and (index := _number(fields[0])) is not None:
            yield GpuReading(index, fields[1], *map(_number, fields[2:]))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None


class RecentGpus:
    """The state here is the last reading, which holds for a second, and the one that is under way.

    However many ask, and whether or not they wait for the answer, one nvidia-smi runs at a time, on a thread that
    nothing else needs.
    """

    def __init__(self) -> None:
        self._read_s = -_FRESH_S
        self._gpus: Sequence[GpuReading] = ()
        self._reading: asyncio.Future[list[GpuReading]] | None = None

    async def read(self) -> Sequence[GpuReading]:
        """Empty when the answer takes too long."""
        if time.monotonic() - self._read_s < _FRESH_S:
            return self._gpus
        if self._reading is None:
            self._reading = self._start()
        done, _ = await asyncio.wait([self._reading], timeout=_PATIENCE_S)
        return self._gpus if done else ()

    def _start(self) -> asyncio.Future[list[GpuReading]]:
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[list[GpuReading]] = loop.create_future()

        def finish(gpus: list[GpuReading]) -> None:
            self._gpus, self._read_s, self._reading = gpus, time.monotonic(), None
            reading.set_result(gpus)

        def run() -> None:
            gpus = read_gpus()
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(finish, gpus)

        # As a daemon: a process that cannot be killed must not keep the server from ending.
        threading.Thread(target=run, name="nvidia-smi", daemon=True).start()
        return reading
