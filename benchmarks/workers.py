"""Workers of this server: how soon one more is there, what it costs in memory, how soon one that was killed is back."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks.errors import BenchmarkError
from benchmarks.load import Target, closed_loop
from benchmarks.modelserver import ManagedServer, ModelServer
from benchmarks.results import Measurement
from benchmarks.scenarios import Repetition, memory_at_rest, target_of
from benchmarks.servers import Deployment
from benchmarks.workloads import Workload, examples

_MOST_WORKERS = 4
_CLIENTS = 16
_KILLS = 10
# One load around each kill: long enough that it goes on when the worker is back.
_LOAD_S = 4
_BEFORE_KILL_S = 1.0
_RECOVERY_LIMIT_S = 60
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class ScaleScenario:
    """One worker more at a time through the management API, and the memory of all processes with each number."""

    name: str
    title: str
    deployment: Deployment
    workload: Workload
    headline: str = "pss_mb"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        with ModelServer().managed(self.deployment, repetition.assets, _MOST_WORKERS) as server:
            alone_mb = 0.0
            for workers in range(1, _MOST_WORKERS + 1):
                values = {"added_s": _scale(server, workers)} if workers > 1 else {}
                server = server.with_ready_workers()
                server.asked.verify(examples(self.workload, repetition.assets))
                values |= memory_at_rest(server.asked)
                alone_mb = alone_mb or values["pss_mb"]
                values["pss_of_one"] = values["pss_mb"] / alone_mb
                yield Measurement(self.name, ModelServer.name, f"workers: {workers}", repetition.number, values)


def _scale(server: ManagedServer, workers: int) -> float:
    began_s = time.monotonic()
    server.scale(workers)
    return time.monotonic() - began_s


@dataclass(frozen=True, slots=True)
class KillScenario:
    """The only worker is killed under load, over and over again; every request that is not answered well is counted."""

    name: str
    title: str
    deployment: Deployment
    workload: Workload
    headline: str = "recovered_p95_s"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        kills = 2 if repetition.seconds == 1 else _KILLS
        with ModelServer().managed(self.deployment, repetition.assets) as server:
            server.asked.verify(examples(self.workload, repetition.assets))
            target = target_of(server.asked, self.workload, repetition.assets.folder / "bodies")
            seen = [_kill_under_load(server, target) for _ in range(kills)]
        recovered_s = [seconds for seconds, _ in seen]
        values = {
            "recovered_p50_s": median(recovered_s),
            "recovered_p95_s": quantiles(recovered_s, n=20, method="inclusive")[-1],
            "errors": float(sum(errors for _, errors in seen)),
        }
        yield Measurement(self.name, ModelServer.name, f"c {_CLIENTS}, {kills} kills", repetition.number, values)


def _kill_under_load(server: ManagedServer, target: Target) -> tuple[float, int]:
    """Seconds from the kill until another worker is ready, and the number of failed requests."""
    with ThreadPoolExecutor(1) as background:
        load = background.submit(closed_loop, target, _CLIENTS, _LOAD_S)
        time.sleep(_BEFORE_KILL_S)
        (pid,) = killed = server.ready_workers()
        os.kill(pid, signal.SIGKILL)
        recovered_s = _seconds_until_back(server, killed)
        return recovered_s, load.result().errors


def _seconds_until_back(server: ManagedServer, killed: frozenset[int]) -> float:
    began_s = time.monotonic()
    while not server.ready_workers() - killed:
        if time.monotonic() - began_s > _RECOVERY_LIMIT_S:
            raise BenchmarkError(f"No worker was ready {_RECOVERY_LIMIT_S} s after one was killed.")
        time.sleep(_POLL_S)
    return time.monotonic() - began_s
