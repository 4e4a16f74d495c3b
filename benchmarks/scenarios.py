"""The kinds of measurement; `catalog` has the list of what is measured with them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.assets import Assets
from benchmarks.ceiling import SCRIPT, Ceiling, measure_loops, measure_script
from benchmarks.load import LoadResult, Target, closed_loop, open_loop, write_bodies
from benchmarks.procs import CpuClock, pss_mb, wait_idle
from benchmarks.results import Measurement
from benchmarks.servers import Deployment, RunningServer, Server
from benchmarks.tables import OURS
from benchmarks.workloads import Workload, examples

_WARM_UP_S = 1
# A server that answers less of what is sent in an open loop has reached its end.
_KEPT_UP = 0.9


@dataclass(frozen=True, slots=True)
class Repetition:
    """One round of everything that was chosen.

    Attributes:
        servers: one at a time, in this order.
        seconds: how long each load lasts; None is the scenario's own.
    """

    number: int
    assets: Assets
    servers: Sequence[Server]
    seconds: int | None = None


class Scenario(Protocol):
    """Something to measure.

    Attributes:
        headline: the value that ratios are about, a name in `Measurement.values`.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def headline(self) -> str: ...

    def measure(self, repetition: Repetition) -> Iterator[Measurement]: ...


@dataclass(frozen=True, slots=True)
class Case:
    """One load of a scenario. `ceiling`: what its throughput is held against."""

    name: str
    concurrency: int
    workload: Workload
    ceiling: Ceiling | None = None


@dataclass(frozen=True, slots=True)
class LoadScenario:
    """Every server under several loads, then the bare loops.

    Attributes:
        only_this_server: what is measured is a setting that others do not have.
    """

    name: str
    title: str
    deployment: Deployment
    cases: Sequence[Case]
    seconds: int
    ceilings: Sequence[Ceiling] = ()
    only_this_server: bool = False
    headline: str = "requests_per_s"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        seconds = repetition.seconds or self.seconds
        for server in repetition.servers:
            if self.only_this_server and server.name != OURS:
                continue
            with server.running(self.deployment, repetition.assets) as running:
                for case in self.cases:
                    running.verify(examples(case.workload, repetition.assets))
                    values = under_load(running, case, repetition.assets.folder / "bodies", seconds)
                    reference = case.ceiling.name if case.ceiling else None
                    yield Measurement(self.name, server.name, case.name, repetition.number, values, reference)
        if self.ceilings:
            threads = self.deployment.threads
            for ceiling, values in measure_loops(self.ceilings, repetition.assets, threads, seconds):
                yield Measurement(self.name, ceiling.name, "", repetition.number, values)


@dataclass(frozen=True, slots=True)
class OpenScenario:
    """Every server under an open loop whose rate grows until it is more than the server can do.

    Attributes:
        first_rate: requests per second of the first step, which lasts three seconds; each step has `growth` times as
            many as the last.
        most: requests per second that the generator itself has no trouble with.
    """

    name: str
    title: str
    deployment: Deployment
    workload: Workload
    most: float
    seconds: int = 3
    first_rate: float = 50.0
    growth: float = 2.0
    headline: str = "requests_per_s"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        for server in repetition.servers:
            with server.running(self.deployment, repetition.assets) as running:
                running.verify(examples(self.workload, repetition.assets))
                bodies = repetition.assets.folder / "bodies"
                target = target_of(running, self.workload, bodies)
                open_loop(target, self.first_rate, 1)  # warms it up
                rate = self.first_rate
                while rate <= self.most:
                    roles = running.processes()
                    wait_idle([process for processes in roles.values() for process in processes])
                    values = open_loop(target, rate, repetition.seconds or self.seconds)
                    yield Measurement(self.name, server.name, f"{rate:g}/s", repetition.number, values)
                    if values["errors"] or values["requests_per_s"] < _KEPT_UP * rate:
                        break
                    rate *= self.growth


def under_load(running: RunningServer, case: Case, bodies: Path, seconds: int) -> dict[str, float]:
    target = target_of(running, case.workload, bodies)
    closed_loop(target, case.concurrency, _WARM_UP_S)
    roles = running.processes()
    wait_idle([process for processes in roles.values() for process in processes])
    before = CpuClock.read(roles)
    result = closed_loop(target, case.concurrency, seconds)
    use = before.until(CpuClock.read(roles))
    answered = max(1, result.answers)
    return {
        **_seen_by_clients(result, len(running.encode(case.workload.inputs[0]).body)),
        **{f"{role}_us": cpu_s / answered * 1e6 for role, cpu_s in use.roles_s.items()},
        "client_us": use.own_s / answered * 1e6,
        "foreign_percent": use.foreign_percent,
    }


def target_of(running: RunningServer, workload: Workload, bodies: Path) -> Target:
    requests = [running.encode(question) for question in workload.inputs]
    write_bodies([request.body for request in requests], bodies)
    return Target(running.url, requests[0].content_type, bodies, running.authorization)


def _seen_by_clients(result: LoadResult, body_bytes: int) -> dict[str, float]:
    rate = result.answers / result.seconds
    bandwidth = {"megabytes_per_s": rate * body_bytes / 1e6} if body_bytes >= 1e6 else {}
    latencies = {"p50_ms": result.p50_ms, "p95_ms": result.p95_ms, "p99_ms": result.p99_ms}
    return {"requests_per_s": rate, **bandwidth, **latencies, "errors": result.errors}


@dataclass(frozen=True, slots=True)
class StartScenario:
    """From launch to the first right answer, and memory at rest after it, beside a script that does as much."""

    name: str
    title: str
    deployment: Deployment
    workload: Workload
    headline: str = "first_answer_s"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        example = examples(self.workload, repetition.assets)[0]
        for server in repetition.servers:
            with server.running(self.deployment, repetition.assets) as running:
                running.verify([example])
                first_answer_s = time.monotonic() - running.launched_s
                values = {"first_answer_s": first_answer_s, **memory_at_rest(running)}
                if running.port_open_s is not None:
                    values["port_open_s"] = running.port_open_s
            yield Measurement(self.name, server.name, "", repetition.number, values, SCRIPT)
        values = measure_script(repetition.assets, self.deployment.threads)
        yield Measurement(self.name, SCRIPT, "", repetition.number, values)


def memory_at_rest(running: RunningServer) -> dict[str, float]:
    """PSS by role and of all, when nothing goes on."""
    roles = running.processes()
    wait_idle([process for processes in roles.values() for process in processes])
    by_role = {role: pss_mb(processes) for role, processes in roles.items()}
    return {"pss_mb": sum(by_role.values()), **{f"{role}_pss_mb": value for role, value in by_role.items()}}
