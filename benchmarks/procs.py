"""CPU time and memory of processes, as /proc has them."""

import os
import resource
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

# Marks every process of a server under test, whoever its parent is by now.
TAG = "BENCHMARK_TAG"

QUIET_ENVIRONMENT = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}

_IDLE_SHARE = 0.05
_IDLE_WINDOW_S = 0.25
_IDLE_LIMIT_S = 10.0


def tagged(tag: str) -> list[psutil.Process]:
    """All processes that were started with this tag in their environment."""
    return [process for process in psutil.process_iter() if _tag_of(process) == tag]


def _tag_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(TAG)
    except (psutil.Error, OSError):
        return None


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Seconds in user and kernel mode of those that still live; the kernel counts in ticks of 10 ms."""
    return sum(_cpu_s(process) for process in processes)


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def pss_mb(processes: Iterable[psutil.Process]) -> float:
    """Proportional set size: a page shared by n processes of the machine counts 1/n for each of them."""
    return sum(process.memory_full_info().pss for process in processes) / 1e6


def wait_idle(processes: Iterable[psutil.Process]) -> None:
    """Returns when the processes have done next to nothing for a moment, or after 10 s at the latest.

    Many servers work on for clients that have left.
    """
    processes = list(processes)
    deadline_s = time.monotonic() + _IDLE_LIMIT_S
    while time.monotonic() < deadline_s:
        before_s = cpu_s(processes)
        time.sleep(_IDLE_WINDOW_S)
        if cpu_s(processes) - before_s < _IDLE_SHARE * _IDLE_WINDOW_S:
            return


@dataclass(frozen=True, slots=True)
class CpuClock:
    """Readings of all clocks at one moment, in seconds.

    Attributes:
        own_s: CPU time of this process and of its children that have ended, such as the load generator.
        roles_s: CPU time of the processes under test, by role.
        machine_s: CPU time of everything on all cores, with what the hypervisor gave to others.
    """

    now_s: float
    own_s: float
    roles_s: Mapping[str, float]
    machine_s: float

    @classmethod
    def read(cls, roles: Mapping[str, Iterable[psutil.Process]]) -> "CpuClock":
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        machine = psutil.cpu_times()
        return cls(
            now_s=time.monotonic(),
            own_s=sum(usage.ru_utime + usage.ru_stime for usage in usages),
            roles_s={role: cpu_s(processes) for role, processes in roles.items()},
            machine_s=sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice,
        )

    def until(self, later: "CpuClock") -> "CpuUse":
        own_s = later.own_s - self.own_s
        roles_s = {role: later.roles_s[role] - self.roles_s[role] for role in self.roles_s}
        foreign_s = later.machine_s - self.machine_s - own_s - sum(roles_s.values())
        capacity_s = (later.now_s - self.now_s) * (os.cpu_count() or 1)
        return CpuUse(own_s, roles_s, max(0.0, 100 * foreign_s / capacity_s))


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU time between two readings; `foreign_percent` is what other programs took of all cores together."""

    own_s: float
    roles_s: Mapping[str, float]
    foreign_percent: float
