"""model-config.yaml of an archive: what the server itself reads of it. Everything else there is the handler's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceType = Literal["cpu", "gpu"]
ParallelType = Literal["pp", "tp", "pptp", "custom"]
BatchingPolicy = Literal["adaptive", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Torchrun:
    """The `torchrun:` map: how one worker is spread over several processes."""

    nnodes: int = 1
    nproc_per_node: int = 1
    rdzv_backend: str = "c10d"
    rdzv_endpoint: str | None = None
    rdzv_conf: str | None = None
    monitor_interval_s: int = 5
    node_rank: int = 0
    omp_number_threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Values as clamped by TorchServe's rules; None: absent, or present and not usable (then there is a warning)."""

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    explanation_timeout_s: int | None = None
    device_type: DeviceType | None = None
    device_ids: tuple[int, ...] | None = None
    parallel_type: ParallelType | None = None
    parallel_level: int | None = None
    torchrun: Torchrun | None = None
    max_retry_timeout_s: int | None = None
    client_timeout_ms: int | None = None
    job_queue_size: int | None = None
    use_job_ticket: bool | None = None
    continuous_batching: bool | None = None
    sequence_batching: bool | None = None
    sequence_max_idle_ms: int | None = None
    sequence_timeout_ms: int | None = None
    max_sequence_job_queue_size: int | None = None
    max_num_sequence: int | None = None
    async_communication: bool | None = None
    use_venv: bool | None = None
    batching_policy: BatchingPolicy | None = None
    retry_on_worker_death: bool | None = None
    retry_on_error: bool | None = None
