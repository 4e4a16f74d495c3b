"""Which devices a worker sees, and how many threads it may use.

Devices are found by the vendor's tool, never through torch: the frontend must not open a device. A worker sees its own
devices and no others, so that a handler's `cuda:0` is always right; the number that the operator knows appears in
describe and in the logs.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from model_server.config.resolve import ModelSettings
from model_server.errors import WorkersFailed

log = logging.getLogger(__name__)

_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits")
# A driver in trouble makes nvidia-smi hang; a server without GPUs is better than none.
_DETECTION_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device of the server.

    Attributes:
        number: position in the server's own list, what `deviceIds` and describe mean.
        visible_as: what to put into CUDA_VISIBLE_DEVICES: an index, a UUID or a MIG name.
        free_memory_mib: when the server started.
    """

    number: int
    visible_as: str
    free_memory_mib: int = 0


def detect_gpus(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """GPUs that the server may use: all the machine has, cut down by the server's own CUDA_VISIBLE_DEVICES."""
    try:
        listing = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=_DETECTION_TIMEOUT_S, check=True)
    except FileNotFoundError:
        return ()
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("GPUs could not be listed with nvidia-smi, so models are served on the CPU: %s", error)
        return ()
    return _visible(_parse_listing(listing.stdout), environment.get("CUDA_VISIBLE_DEVICES"))


def _parse_listing(text: str) -> list[tuple[Gpu, str]]:
    """Devices with their UUIDs. Rows that are not `index, uuid, MiB` (a device that fell off the bus) are left out."""
    found = []
    for line in text.splitlines():
        index, uuid, free, *_ = [*(field.strip() for field in line.split(",")), "", ""]
        if index.isdigit():
            found.append((Gpu(int(index), index, int(free) if free.isdigit() else 0), uuid))
    return found


def _visible(found: Sequence[tuple[Gpu, str]], visible_devices: str | None) -> tuple[Gpu, ...]:
    if visible_devices is None:
        return tuple(gpu for gpu, _ in found)
    known = {name: gpu for gpu, uuid in found for name in (gpu.visible_as, uuid)}
    chosen: list[Gpu] = []
    for name in filter(None, (item.strip() for item in visible_devices.split(","))):
        gpu = known.get(name) or next((known[full] for full in known if full.startswith(name)), None)
        if gpu is None and not name.startswith("MIG-"):
            break  # CUDA ignores an unknown device and everything behind it
        memory_mib = gpu.free_memory_mib if gpu else 0
        chosen.append(Gpu(len(chosen), name, memory_mib))
    return tuple(chosen)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Devices of one worker; without any it runs on the CPU."""

    gpus: tuple[Gpu, ...] = ()

    @property
    def gpu_id(self) -> int | None:
        """Index within what the worker sees."""
        return 0 if self.gpus else None

    @property
    def label(self) -> str:
        """For describe and logs: `cpu`, `gpu:1`, `gpu:0,1`."""
        return f"gpu:{','.join(str(gpu.number) for gpu in self.gpus)}" if self.gpus else "cpu"


class Placement:
    """Assigns devices to the workers of all models.

    The state here is how many workers hold each GPU, and how many run on the CPU; `reserve` and `release` change it.
    """

    def __init__(self, gpus: Sequence[Gpu], cores: int) -> None:
        self.gpus = tuple(replace(gpu, number=number) for number, gpu in enumerate(gpus))
        self._cores = cores
        self._workers: Counter[int] = Counter()
        self._cpu_workers = 0

    def check(self, name: str, settings: ModelSettings) -> None:
        """Raises `WorkersFailed` when no worker of this model could ever be placed."""
        needed = settings.parallel_level
        if self._uses_gpu(settings) and needed > len(self._candidates(settings)):
            raise WorkersFailed(
                f"No enough gpu devices for model:{name} parallelLevel:{needed}. "
                f"The server has {len(self._candidates(settings))} for it."
            )

    def reserve(self, settings: ModelSettings) -> Assignment:
        """The least used devices, of those the ones with most free memory; `release` them when the worker is gone."""
        if not self._uses_gpu(settings):
            self._cpu_workers += 1
            return Assignment()
        candidates = self._candidates(settings)
        candidates.sort(key=lambda gpu: (self._workers[gpu.number], -gpu.free_memory_mib, gpu.number))
        count = len(candidates) if settings.model_parallel else max(1, settings.parallel_level)
        chosen = sorted(candidates[:count], key=lambda gpu: gpu.number)
        self._workers.update(gpu.number for gpu in chosen)
        return Assignment(tuple(chosen))

    def release(self, assignment: Assignment) -> None:
        if not assignment.gpus:
            self._cpu_workers -= 1
        self._workers.subtract(gpu.number for gpu in assignment.gpus)

    def environment(self, assignment: Assignment, inherited: Mapping[str, str]) -> dict[str, str]:
        """Variables that must be set before CUDA or a thread pool starts."""
        threads = inherited.get("OMP_NUM_THREADS") or str(self._threads(assignment))
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(gpu.visible_as for gpu in assignment.gpus),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": inherited.get("MKL_NUM_THREADS") or threads,
            "OPENBLAS_NUM_THREADS": inherited.get("OPENBLAS_NUM_THREADS") or threads,
        }

    def _threads(self, assignment: Assignment) -> int:
        """CPU workers share the cores: threads in excess of cores spin at barriers and cost up to 30 times the time."""
        return max(1, self._cores // max(1, self._cpu_workers)) if not assignment.gpus else max(1, self._cores // 2)

    def _uses_gpu(self, settings: ModelSettings) -> bool:
        return settings.device_type == "gpu" and bool(self.gpus)

    def _candidates(self, settings: ModelSettings) -> list[Gpu]:
        wanted = settings.device_ids
        return [gpu for gpu in self.gpus if wanted is None or gpu.number in wanted]


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
