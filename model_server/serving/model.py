"""One version of a model: its queue, its workers, and the way in for requests."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from model_server.config.resolve import ModelSettings
from model_server.config.server import SequenceHeaders, ServerConfig
from model_server.errors import BadRequest, ServerError, ServiceUnavailable
from model_server.metrics.server_metrics import ServerMetrics
from model_server.serving.batching import AdaptiveRule, BatchRule, FixedRule
from model_server.serving.jobs import Answer, InferenceRequest, Job
from model_server.serving.link import Timeouts
from model_server.serving.placement import Assignment, Placement
from model_server.serving.process import WorkerCommand, inherited_environment
from model_server.serving.queue import JobQueue
from model_server.serving.replica import Replica, ReplicaPlan
from model_server.serving.sequences import SequenceLimits, SequenceQueue, with_sequence
from model_server.serving.slots import SlotQueue
from model_server.serving.starter import WorkerStarter
from model_server.serving.store import OpenedArchive
from model_server.wire.messages import Capabilities, Load, RequestKind, ServingMode

log = logging.getLogger(__name__)

# Requests that an asynchronous worker may have at once: engines that batch by themselves want to see all there are.
ASYNC_SLOTS = 1024
# Each is a process, of 50 MB and more.
MOST_WORKERS = 1000


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a version is called and where it came from."""

    name: str
    version: str
    url: str
    handler: str
    runtime: str
    loaded_at_startup: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """What all models of the server share."""

    config: ServerConfig
    placement: Placement
    worker_ids: itertools.count[int]
    metrics: ServerMetrics
    starter: WorkerStarter


class Model:
    """One registered version.

    The state here is the settings in force, the replicas and whether it still takes requests; `scale` and `stop` change
    it.

    Attributes:
        is_provisional: its registration may still be taken back; nobody misses it then.
    """

    def __init__(self, identity: ModelIdentity, archive: OpenedArchive, settings: ModelSettings, host: Host) -> None:
        self.identity = identity
        self.archive = archive
        self.settings = settings
        self.capabilities = Capabilities()
        self.queue = _queue(settings, host.config.sequence_headers)
        self.metrics = host.metrics.for_model(identity.name, identity.version)
        self._host = host
        self._replicas: list[Replica] = []
        self._leaving: dict[asyncio.Task[None], Replica] = {}
        self._changes: set[asyncio.Task[ServerError | None]] = set()
        self._loop = asyncio.get_running_loop()
        self.is_provisional = False
        self._before_closing: ModelSettings | None = None

    @property
    def is_closing(self) -> bool:
        return self._before_closing is not None

    @property
    def lasting_settings(self) -> ModelSettings:
        """What the next start has to know: while its workers are ended it is still served as it was."""
        return self._before_closing or self.settings

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Worker slots, oldest first, without those on their way out."""
        return tuple(self._replicas)

    @property
    def is_ready(self) -> bool:
        """True when as many workers as configured, and at least one, can answer."""
        ready = sum(replica.state == "ready" for replica in self._replicas)
        return ready >= max(1, self.settings.min_workers)

    @property
    def is_healthy(self) -> bool:
        """True while nothing is missing: workers that load for the first time are not missed, dead ones are."""
        if self.is_provisional or self.is_closing:
            return True
        present = sum(replica.state == "ready" or replica.is_first_start for replica in self._replicas)
        return present >= self.settings.min_workers

    @property
    def state(self) -> str:
        """READY, LOADING, DEGRADED (some workers answer), FAILED (none will) or STOPPED (none wanted)."""
        if not self._replicas:
            return "STOPPED"
        if self.is_ready:
            return "READY"
        states = {replica.state for replica in self._replicas}
        if states == {"failed"}:
            return "FAILED"
        return "DEGRADED" if "ready" in states else "LOADING"

    # --- requests ---

    def submit(self, request: InferenceRequest) -> Job:
        """Queues a request; its answer comes through `job.future`.

        Raises:
            ServiceUnavailable: at once, when no worker can serve it, the queue is full, or its sequence is lost.
        """
        if request.kind == "describe":
            return self._queue_up(request)
        self.metrics.requested(request.version)
        try:
            return self._queue_up(request, self._measure)
        except ServiceUnavailable:
            self.metrics.failed()
            raise

    def _queue_up(self, request: InferenceRequest, measure: Callable[[Job, bool], None] | None = None) -> Job:
        self._refuse_if_hopeless(request)
        if self.settings.stateful:
            request = with_sequence(request, self._host.config.sequence_headers)
        job = Job(request, self._loop.create_future(), time.monotonic(), measure=measure)
        if self.settings.client_timeout_ms:
            timer = self._loop.call_later(self.settings.client_timeout_ms / 1000, self._expire, job)
            job.future.add_done_callback(lambda _: timer.cancel())
        try:
            self.queue.put(job)
        except ServiceUnavailable as error:
            error.message = self._no_worker_text(request, error.message)
            raise
        return job

    async def predict(self, request: InferenceRequest) -> Answer:
        """Submits and waits for the answer, or for its first part; when the wait is cancelled, so is the job."""
        job = self.submit(request)
        try:
            return await job.future
        except asyncio.CancelledError:
            log.info("Connection to client got closed; Removing job: %s", request.id)
            self.queue.discard(job)
            if job.stream is not None:
                job.stream.abandon()
            raise

    def _measure(self, job: Job, is_answered: bool) -> None:
        if is_answered:
            total_s = time.monotonic() - job.arrived_s
            self.metrics.answered(job.request.version, job.sent_s - job.arrived_s, total_s)
        else:
            self.metrics.failed()

    def look(self) -> None:
        """Takes the measures that are only of use at the moment."""
        ready = sum(replica.state == "ready" for replica in self._replicas)
        self.metrics.look_at(len(self.queue), ready)

    def _expire(self, job: Job) -> None:
        job.expire(self.settings.client_timeout_ms)
        self.queue.discard(job)

    def _refuse_if_hopeless(self, request: InferenceRequest) -> None:
        if self.is_closing:
            raise ServiceUnavailable(self._no_worker_text(request, "The model is being unregistered."))
        if not self._replicas:
            raise ServiceUnavailable(self._no_worker_text(request))
        if not self.queue.has_worker and all(replica.state == "failed" for replica in self._replicas):
            raise ServiceUnavailable(self._no_worker_text(request, self._failed_text()))
        if self.settings.use_job_ticket and not self.queue.has_free_worker:
            raise ServiceUnavailable(self._no_worker_text(request, "All workers are busy (useJobTicket)."))

    def _answer_if_hopeless(self) -> None:
        """When the last worker is given up, nobody will take the requests that still wait."""
        if self.state == "FAILED":
            for job in self.queue.drop_all():
                job.fail(ServiceUnavailable(self._no_worker_text(job.request, self._failed_text())))

    def _failed_text(self) -> str:
        return f"All its workers failed to start; GET /models/{self.identity.name} on the management port says why."

    def _no_worker_text(self, request: InferenceRequest, reason: str = "") -> str:
        """TorchServe's literal text, its unbalanced quotation mark included, then the reason."""
        version = f' Version {request.version}"' if request.version else ""
        text = f'Model "{self.identity.name}"{version} has no worker to serve '
        if request.kind == "describe":
            text += "describe request. Please use scale workers API to add workers."
        else:
            text += (
                "inference request. Please use scale workers API to add workers. "
                "If this is a sequence inference, please check if it is closed, or expired; "
                "or exceeds maxSequenceJobQueueSize"
            )
        return f"{text.removesuffix('.')}. {reason}" if reason else text

    # --- workers ---

    def scale(self, min_workers: int, max_workers: int) -> asyncio.Task[ServerError | None]:
        """Adds workers up to the minimum, or removes the newest ones down to the maximum; failed ones do not count.

        The change begins at once. The returned task is done when the change is complete, or with the error of the first
        new worker that did not come up. Raises `WorkersFailed` when there are not enough devices, and `BadRequest` for
        more workers than any machine has room for.
        """
        if min_workers > MOST_WORKERS:
            raise BadRequest(f"{min_workers} workers are too many: a model has {MOST_WORKERS} at most.")
        self._host.placement.check(self.identity.name, self.settings)
        self.settings = replace(self.settings, min_workers=min_workers, max_workers=max_workers)
        leaving = [replica for replica in self._replicas if replica.state in ("failed", "stopped")]
        staying = [replica for replica in self._replicas if replica not in leaving]
        leaving += staying[max_workers:]
        added = [self._new_replica() for _ in range(min_workers - len(staying))]
        self._replicas = staying[:max_workers] + added
        for replica in added:
            replica.start()
        departures = [self._dismiss(replica) for replica in leaving]
        change = asyncio.create_task(_complete(added, departures))
        self._changes.add(change)  # nobody may be waiting for it, and the event loop alone does not keep it alive
        change.add_done_callback(self._changes.discard)
        return change

    async def stop(self) -> None:
        """Lets the workers finish what they have, ends them, and answers whatever still waits."""
        self._before_closing = self.lasting_settings
        try:
            if self._replicas:
                await self.scale(0, 0)
            await self._await_departures()
        finally:
            self._before_closing = None
        for job in self.queue.drop_all():
            job.fail(ServiceUnavailable(self._no_worker_text(job.request, "The model was unregistered.")))

    def kill_leaving(self) -> None:
        """Does not let workers finish any longer that were told to end."""
        for replica in self._leaving.values():
            replica.kill()

    async def _await_departures(self) -> None:
        while self._leaving:
            await asyncio.wait(self._leaving)

    def _dismiss(self, replica: Replica) -> asyncio.Task[None]:
        task = asyncio.create_task(replica.stop(), name=f"stop {replica.id}")
        self._leaving[task] = replica

        def gone(_: asyncio.Task[None]) -> None:
            del self._leaving[task]
            self._host.placement.release(replica.plan.assignment)

        task.add_done_callback(gone)
        return task

    def _new_replica(self) -> Replica:
        assignment = self._host.placement.reserve(self.settings)
        id = str(next(self._host.worker_ids))
        name = f"W-{id}-{self.identity.name}_{self.identity.version}"
        settings = self.settings
        plan = ReplicaPlan(
            name=name,
            load=self._load_message(assignment),
            command=self._command(name, assignment),
            starter=self._host.starter,
            assignment=assignment,
            startup_timeout_s=settings.startup_timeout_s,
            timeouts_s=_timeouts_s(settings),
            retry_window_s=settings.max_retry_timeout_s,
            retry_on_worker_death=settings.retry_on_worker_death and not settings.stateful,
            metrics=self.metrics,
            package_hint=self._package_hint(),
        )
        return Replica(id, plan, self.queue, self._learn, self._answer_if_hopeless)

    def _package_hint(self) -> str:
        manifest = self.archive.manifest
        if manifest is not None and manifest.model.requirements_file and self.archive.python is None:
            return "The archive's requirements are not installed: set install_py_dep_per_model=true."
        return "Install it beside modelserver, or pack a requirements file and set install_py_dep_per_model=true."

    def _load_message(self, assignment: Assignment) -> Load:
        config = self._host.config
        return Load(
            model_name=self.identity.name,
            model_dir=str(self.archive.root),
            handler=self.identity.handler,
            batch_size=self.settings.batch_size,
            gpu_id=assignment.gpu_id,
            mode=_serving_mode(self.settings),
            envelope=config.service_envelope,
            limit_max_image_pixels=config.limit_max_image_pixels,
            decode_input_request=config.decode_input_request,
            retry_on_error=self.settings.retry_on_error and not self.settings.stateful,
            max_response_size_bytes=config.max_response_size_bytes,
        )

    def _command(self, name: str, assignment: Assignment) -> Callable[[], WorkerCommand]:
        host, archive = self._host, self.archive

        def command() -> WorkerCommand:
            environment = inherited_environment(host.config)
            environment.update(host.placement.environment(assignment, environment))
            return WorkerCommand(
                archive.python or host.config.python,
                name,
                environment,
                str(archive.root),
                self.identity.handler,
                may_be_forked=archive.python is None,
            )

        return command

    def _learn(self, capabilities: Capabilities) -> None:
        """What the handler says it can do decides how its requests are batched."""
        self.capabilities = capabilities
        self.queue.lane("predict").length_batching = capabilities.length_batching
        if capabilities.batch_explanations and _serving_mode(self.settings) == "batch":
            self.queue.lane("explain").rule.batch_size = self.settings.batch_size


def _queue(settings: ModelSettings, sequence_headers: SequenceHeaders) -> JobQueue:
    rules = _rules(settings)
    slots = {"batch": None, "continuous": settings.batch_size, "async": ASYNC_SLOTS}[_serving_mode(settings)]
    if settings.stateful:
        limits = SequenceLimits(
            headers=sequence_headers,
            max_sequences=settings.max_num_sequence,
            max_queued=settings.max_sequence_job_queue_size,
            max_idle_ms=settings.sequence_max_idle_ms,
            timeout_ms=settings.sequence_timeout_ms,
            slots=slots,
        )
        return SequenceQueue(settings.job_queue_size, rules, lambda: _rules(settings)["predict"], limits)
    if slots is not None:
        return SlotQueue(settings.job_queue_size, rules, slots)
    return JobQueue(settings.job_queue_size, rules)


def _serving_mode(settings: ModelSettings) -> ServingMode:
    """TorchServe's order where several are asked for."""
    if settings.continuous_batching:
        return "continuous"
    return "async" if settings.async_communication and not settings.stateful else "batch"


def _rules(settings: ModelSettings) -> dict[RequestKind, BatchRule]:
    """Explanations and describe requests go one by one until the handler says that it can take more."""
    rule = FixedRule if settings.batching_policy == "fixed" else AdaptiveRule
    delay_s = settings.max_batch_delay_ms / 1000
    batch_size = settings.batch_size if _serving_mode(settings) == "batch" else 1
    return {"predict": rule(batch_size, delay_s), "explain": rule(1, delay_s), "describe": rule(1, 0)}


def _timeouts_s(settings: ModelSettings) -> Timeouts:
    """Asynchronous handlers have many requests at once, and replacing their worker would end them all."""
    if _serving_mode(settings) == "async":
        return dict.fromkeys(("predict", "explain", "describe"))
    return {
        "predict": settings.response_timeout_s,
        "explain": settings.explanation_timeout_s,
        "describe": settings.response_timeout_s,
    }


async def _complete(added: list[Replica], departures: list[asyncio.Task[None]]) -> ServerError | None:
    """Waits for the departures, and for the arrivals until all are there or one has failed."""
    if departures:
        await asyncio.wait(departures)
    for arrival in asyncio.as_completed([replica.settled for replica in added]):
        if (error := await arrival) is not None:
            return error
    return None
