"""One worker slot of a model: keeps a process running in it, from its first start to the day it is scaled away.

The position in `_run` is the state; `state` only tells it to others:

    starting -> loading -> ready -> (dies) -> starting …        and from anywhere: -> stopped
                     \\-> backing off -> starting …  -> failed (after the attempts allowed)
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from model_server.errors import ServerError, WorkerDied, WorkersFailed
from model_server.metrics.server_metrics import ModelMetrics
from model_server.serving.link import Flight, Link, LinkEvents, Timeouts
from model_server.serving.placement import Assignment
from model_server.serving.process import WorkerCommand, WorkerProcess, describe_exit
from model_server.serving.queue import JobQueue
from model_server.serving.starter import WorkerStarter
from model_server.wire.messages import Capabilities, Failure, Load, Stop

log = logging.getLogger(__name__)

State = Literal["starting", "loading", "ready", "draining", "backing off", "failed", "stopped"]

# TorchServe's delays between attempts.
BACK_OFF_S = (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597)
MAX_LOAD_ATTEMPTS = 5
# A request that has seen this many workers die is not tried again.
MAX_DEATHS = 2


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Everything a replica needs to know to run its worker.

    Attributes:
        command: asked anew for every start, since the number of threads depends on who else runs.
        timeouts_s: how long a worker may take for a batch, by kind.
        name: `W-9000-model_1.0`, for logs and metrics.
        package_hint: what to do when a package is missing.
        retry_window_s: after this long without a successful load, no more attempts.
    """

    name: str
    load: Load
    command: Callable[[], WorkerCommand]
    starter: WorkerStarter
    assignment: Assignment
    startup_timeout_s: float
    timeouts_s: Timeouts
    retry_window_s: float
    retry_on_worker_death: bool
    metrics: ModelMetrics
    package_hint: str = ""


class LoadFailed(WorkersFailed):
    """This incarnation never became ready."""


class Replica:
    """One worker slot.

    The state here is the running incarnation, and what happened last; it is changed by the task that `start` creates.

    Attributes:
        settled: completed with None or the error when the first attempt to load is over.
        reason: why it is not ready, for describe.
        starts: incarnations so far.
    """

    def __init__(
        self,
        id: str,
        plan: ReplicaPlan,
        queue: JobQueue,
        learned: Callable[[Capabilities], None],
        gave_up: Callable[[], None],
    ) -> None:
        self.id = id
        self.plan = plan
        self._queue = queue
        self._learned = learned
        self._gave_up = gave_up
        self.state: State = "starting"
        self.reason: str | None = None
        self.starts = 0
        self.started_at = datetime.now()
        self.settled: asyncio.Future[ServerError | None] = asyncio.get_running_loop().create_future()
        self._process: WorkerProcess | None = None
        self._link: Link | None = None
        self._death: str | None = None
        self._was_useful = False
        self._started_s = 0.0
        self._hangs = 0
        self._task: asyncio.Task[None] | None = None
        self._killer: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """-1 while there is no process, as TorchServe shows it."""
        return self._process.pid if self._process else -1

    @property
    def is_first_start(self) -> bool:
        """True until the first attempt to load is over."""
        return not self.settled.done()

    @property
    def _is_draining(self) -> bool:
        return self.state == "draining"

    def memory_bytes(self) -> int:
        """Resident memory of the worker; 0 while there is none."""
        return self._process.memory_bytes() if self._process else 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"replica {self.id}")

    async def stop(self) -> None:
        """Lets the worker finish what it has, then ends it. Cancel-safe: a cancelled stop kills at once."""
        if self._task is None or self._task.done():
            return
        link, process = self._link, self._process
        try:
            if link is not None and process is not None and self.state == "ready":
                self.state = "draining"
                self._queue.detach(link)
                await link.wait_idle()
                link.write(Stop())
                await process.wait_exit()
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])

    def kill(self) -> None:
        """Ends the worker at once; `stop` returns when that is done."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        failures = 0
        first_failure_s = 0.0
        try:
            while not self._is_draining:
                was_ready = await self._live_once()
                failures = 0 if self._was_useful else failures + 1
                if failures == 1:
                    first_failure_s = self._now_s()
                # A worker that answered, or died once without having been asked, is worth starting again at once.
                if self._is_draining or failures == 0 or (was_ready and failures == 1):
                    continue
                if not await self._back_off(failures, self._now_s() - first_failure_s):
                    return
        finally:
            if self.state != "failed":
                self.state = "stopped"
            self._settle(WorkersFailed("The worker was stopped before it was ready."))

    async def _live_once(self) -> bool:
        """One incarnation; False when it never became ready."""
        try:
            await self._live()
        except LoadFailed as error:
            log.error("Worker %s could not load the model: %s", self.id, error.message)
            self.reason = error.message
            self._settle(error)
            return False
        return True

    async def _back_off(self, failures: int, failing_s: float) -> bool:
        """Waits before the next attempt; False when there will be none."""
        if failures >= MAX_LOAD_ATTEMPTS or failing_s >= self.plan.retry_window_s:
            self.state = "failed"
            log.error("Worker %s is given up after %d attempts: %s", self.id, failures, self.reason)
            self._gave_up()
            return False
        delay_s = BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1]
        log.info("Retry worker: %s in %d seconds.", self.id, delay_s)
        self.state = "backing off"
        await asyncio.sleep(delay_s)
        return True

    async def _live(self) -> None:
        """One incarnation, from start to death. Raises `LoadFailed` when it never became ready."""
        self.state, self._death, self._was_useful = "starting", None, False
        self.starts += 1
        self._started_s = self._now_s()
        try:
            process, sock = await self.plan.starter.start(self.plan.command())
        except WorkersFailed as error:
            raise LoadFailed(error.message) from error
        self._process = process
        try:
            device = self.plan.assignment.label if self.plan.assignment.gpus else f"cpu:{self.id}"
            is_sequential = self.plan.load.mode == "batch"
            self._link = await Link.open(
                sock, device, self.plan.timeouts_s, self._events(), is_sequential=is_sequential
            )
            await self._load(self._link, process)
            self._become_ready(self._link)
            await self._link.closed
            await self._let_end(self._link, process)
        finally:
            # A stop may cancel this task again meanwhile; an end cut in half would lose the jobs the worker had.
            ending = asyncio.create_task(self._end(process))
            try:
                await asyncio.shield(ending)
            finally:
                await asyncio.wait([ending])

    async def _let_end(self, link: Link, process: WorkerProcess) -> str:
        """After the end of the connection: how the process ended. Killed at once, it could not tell."""
        self._queue.detach(link)
        was_ready = self.state == "ready"
        if was_ready:
            self.state = "starting"
        if link.fault is not None:
            self._death = link.fault
        elif not await process.wait_exit():
            self._death = "It closed its connection to the server and was replaced."
        text = self._death or describe_exit(await process.reap())
        if was_ready:
            self.reason = text
            log.warning("Worker disconnected. Worker %s died. %s", self.id, text)
            log.info("Auto recovery start timestamp: %d", time.time())
        return text

    async def _end(self, process: WorkerProcess) -> None:
        """Whatever ended the incarnation: no process is left, and every job it had is settled."""
        link, self._link, self._process = self._link, None, None
        flights = []
        if link is not None:
            self._queue.detach(link)
            flights = link.abandon()
        status = await process.reap()
        text = self._death or describe_exit(status)
        for flight in flights:
            self._queue.finished(link, flight.kind, flight.jobs, None)
        self._settle_jobs(flights, text, self._status_of_death(status))

    def _status_of_death(self, exit_status: int) -> int:
        """507 where memory may have run out: killed, and not by us."""
        return 507 if exit_status == -signal.SIGKILL and self._death is None else 500

    async def _load(self, link: Link, process: WorkerProcess) -> None:
        self.state = "loading"
        link.write(self.plan.load)
        await link.wait_loaded(self.plan.startup_timeout_s)
        if link.loaded.done():
            outcome = link.loaded.result()
            if isinstance(outcome, Failure):
                is_package_missing = outcome.message.startswith("ModuleNotFoundError")
                hint = f" {self.plan.package_hint}" if is_package_missing else ""
                raise LoadFailed(f"{outcome.message}{hint}", status=outcome.status)
            self._learned(outcome.capabilities)
        elif link.closed.done():
            text = await self._let_end(link, process)
            status = await process.reap()
            hint = "It had not loaded the model yet; the model log has what it printed."
            raise LoadFailed(f"{text} {hint}", status=self._status_of_death(status))
        else:
            _log_no_response()
            await process.dump_stack()
            seconds = self.plan.startup_timeout_s
            raise LoadFailed(f"The model was not loaded within {seconds:g} s (startup_timeout).")

    def _become_ready(self, link: Link) -> None:
        self.plan.metrics.worker_loaded(self.plan.name, self._now_s() - self._started_s)
        if self.starts > 1:
            self.plan.metrics.worker_restarted()
            log.info("Auto recovery succeeded, reset recoveryStartTS")
        self.state, self.reason = "ready", None
        self._settle(None)
        self._queue.attach(link)

    def _settle(self, outcome: ServerError | None) -> None:
        if not self.settled.done():
            self.settled.set_result(outcome)

    def _events(self) -> LinkEvents:
        return LinkEvents(self._finished, self._overdue, self.plan.metrics.recorded_by_handler)

    def _finished(self, link: Link, flight: Flight, service_s: float) -> None:
        self._was_useful, self._hangs = True, 0
        on_its_way_s = time.monotonic() - flight.jobs[0].sent_s - service_s
        ids = [job.request.id for job in flight.jobs]
        self.plan.metrics.batch_answered(ids, service_s, on_its_way_s)
        self._queue.finished(link, flight.kind, flight.jobs, service_s)

    def _overdue(self, flight: Flight) -> None:
        """The worker hangs: have its stack written down, then kill it; `_live` sees the end of the connection."""
        if self._death is not None:
            return  # several requests are in the call that hangs, and each has a clock
        timeout_s = self.plan.timeouts_s[flight.kind]
        self._hangs += 1
        log.info("Number or consecutive unsuccessful inference %d", self._hangs)
        _log_no_response()
        self._death = f"It did not respond within {timeout_s:g} s (responseTimeout) and was replaced."
        if self._link is not None and self._link.jobs_under_way == 1:
            flight.jobs[0].fail(WorkerDied(f"Worker died. {self._death}"))
        if self._process is not None:
            self._killer = asyncio.create_task(_kill_hung(self._process))

    def _settle_jobs(self, flights: list[Flight], exit_text: str, status: int) -> None:
        """Every job the dead worker had is either put back at the head of the queue or answered."""
        to_repeat = []
        for flight in flights:
            # Only a batch the worker had begun with can have killed it.
            guilty = flight.started_s is not None
            for job in flight.jobs:
                job.deaths += guilty
                job.alone = job.alone or guilty
                may_repeat = job.stream is None and self.plan.retry_on_worker_death
                if not guilty or (may_repeat and job.deaths < MAX_DEATHS):
                    to_repeat.append(job)
                else:
                    job.fail(WorkerDied(_death_message(job.deaths, exit_text), status=status))
        self._queue.put_back(to_repeat)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


def _log_no_response() -> None:
    """Two lines that those look for who watch TorchServe's log."""
    log.error("Backend worker error")
    log.error("org.pytorch.serve.wlm.WorkerInitializationException: Backend worker did not respond in given time")


async def _kill_hung(process: WorkerProcess) -> None:
    await process.dump_stack()
    await process.reap()


def _death_message(deaths: int, exit_text: str) -> str:
    again = " It was the second worker that ended on this request, which is not tried again." if deaths > 1 else ""
    return f"Worker died. {exit_text}{again}"
