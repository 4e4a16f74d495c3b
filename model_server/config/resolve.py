"""What holds for one version of a model, out of the request, the archive, `models=` and the server's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_server.config.model_config import BatchingPolicy, DeviceType, ParallelType, Torchrun


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterOverrides:
    """What a registration request says itself; None: not given. Everything is None for start-up models."""

    initial_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    runtime: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Settings of one model version, complete and consistent.

    `client_timeout_ms`, `sequence_timeout_ms`: 0 is never. `runtime` None: the manifest's. `device_ids` None: any device
    of `device_type`. `stateful` is TorchServe's name for sequence batching. `origins`: field -> where its value came from.
    """

    min_workers: int = 0
    max_workers: int = 0
    batch_size: int = 1
    max_batch_delay_ms: int = 100
    response_timeout_s: int = 120
    startup_timeout_s: int = 120
    explanation_timeout_s: int = 120
    job_queue_size: int = 100
    max_retry_timeout_s: int = 300
    client_timeout_ms: int = 0
    device_type: DeviceType = "cpu"
    device_ids: tuple[int, ...] | None = None
    parallel_type: ParallelType | None = None
    parallel_level: int = 0
    torchrun: Torchrun | None = None
    batching_policy: BatchingPolicy = "adaptive"
    retry_on_worker_death: bool = True
    retry_on_error: bool = True
    continuous_batching: bool = False
    async_communication: bool = False
    use_job_ticket: bool = False
    use_venv: bool = False
    stateful: bool = False
    sequence_max_idle_ms: int = 0
    sequence_timeout_ms: int = 0
    max_num_sequence: int = 1
    max_sequence_job_queue_size: int = 1
    runtime: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
