"""model-config.yaml of an archive: what the server itself reads of it. Everything else there is the handler's."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Literal

from archiver.config_file import parse_config
from archiver.errors import InvalidConfig
from model_server.config.server import ConfigWarning
from model_server.config.spelling import nearest
from model_server.config.yaml_values import Reader, boolean, integer, integers, one_of, read_fields, text

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
    stateful: bool | None = None  # sequenceBatching
    sequence_max_idle_ms: int | None = None
    sequence_timeout_ms: int | None = None
    max_sequence_job_queue_size: int | None = None
    max_num_sequence: int | None = None
    async_communication: bool | None = None
    use_venv: bool | None = None
    batching_policy: BatchingPolicy | None = None
    retry_on_worker_death: bool | None = None
    retry_on_error: bool | None = None
    model_parallel: bool | None = None  # of the `handler:` section: one worker's model lies on all its devices


_TORCHRUN: dict[str, tuple[str, Reader]] = {
    "nnodes": ("nnodes", integer(at_least=1)),
    "nproc-per-node": ("nproc_per_node", integer(at_least=1)),
    "rdzv-backend": ("rdzv_backend", text),
    "rdzv-endpoint": ("rdzv_endpoint", text),
    "rdzv-conf": ("rdzv_conf", text),
    "monitor-interval": ("monitor_interval_s", integer(at_least=1)),
    "node-rank": ("node_rank", integer(at_least=0)),
    "OMP_NUMBER_THREADS": ("omp_number_threads", integer(at_least=1)),
}

_FIELDS: dict[str, tuple[str, Reader]] = {
    "minWorkers": ("min_workers", integer(raised_to=1)),
    "maxWorkers": ("max_workers", integer(at_least=0)),
    "batchSize": ("batch_size", integer(raised_to=1)),
    "maxBatchDelay": ("max_batch_delay_ms", integer(at_least=0)),
    "responseTimeout": ("response_timeout_s", integer(at_least=1)),
    "startupTimeout": ("startup_timeout_s", integer(at_least=1)),
    "explanationTimeout": ("explanation_timeout_s", integer(at_least=1)),
    "deviceType": ("device_type", one_of("cpu", "gpu")),
    "deviceIds": ("device_ids", integers),
    "parallelType": ("parallel_type", one_of("pp", "tp", "pptp", "custom")),
    "parallelLevel": ("parallel_level", integer(at_least=0)),
    "maxRetryTimeoutInSec": ("max_retry_timeout_s", integer(raised_to=0)),
    "clientTimeoutInMills": ("client_timeout_ms", integer(at_least=0)),
    "jobQueueSize": ("job_queue_size", integer(at_least=1)),
    "useJobTicket": ("use_job_ticket", boolean),
    "continuousBatching": ("continuous_batching", boolean),
    "sequenceBatching": ("stateful", boolean),
    "sequenceMaxIdleMSec": ("sequence_max_idle_ms", integer(at_least=0)),
    "sequenceTimeoutMSec": ("sequence_timeout_ms", integer(at_least=0)),
    "maxSequenceJobQueueSize": ("max_sequence_job_queue_size", integer(raised_to=1)),
    "maxNumSequence": ("max_num_sequence", integer(raised_to=1)),
    "asyncCommunication": ("async_communication", boolean),
    "useVenv": ("use_venv", boolean),
    "batchingPolicy": ("batching_policy", one_of("adaptive", "fixed")),
    "retryOnWorkerDeath": ("retry_on_worker_death", boolean),
    "retryOnError": ("retry_on_error", boolean),
}

# Keys that handlers are known to read: never taken for a slip of the pen.
_OF_HANDLERS = ("handler", "pt2", "micro_batching", "pippy", "deepspeed", "dali")
# High enough that a handler's own parameter is hardly ever suspected.
_NEAR_MISS = 0.85
# Comparing takes time, and an archive may come from anybody.
_MOST_KEYS_CHECKED = 200


def parse_model_config(content: bytes) -> tuple[ModelConfig | None, list[ConfigWarning]]:
    """Read a model-config.yaml.

    A value of the wrong type or out of range is left out with a warning, a file that is not YAML or not a map gives
    None and a warning: TorchServe registers the model all the same. Keys the server does not know are parameters of the
    handler; one that looks like a known key misspelt gets a warning.
    """
    try:
        return _from_map(parse_config(content, "model-config.yaml"))
    except InvalidConfig as error:
        return None, [ConfigWarning(f"{error} It is ignored.")]


def _from_map(document: dict[str, object]) -> tuple[ModelConfig, list[ConfigWarning]]:
    values, messages = read_fields(document, _FIELDS)
    torchrun, torchrun_messages = _torchrun(document.get("torchrun"))
    config = ModelConfig(**values, torchrun=torchrun, model_parallel=_is_model_parallel(document.get("handler")))
    messages += [*torchrun_messages, *_misspelt(document), *_inconsistent(config)]
    return config, [ConfigWarning(message) for message in messages]


def _torchrun(value: object) -> tuple[Torchrun | None, list[str]]:
    if value is None:
        return None, []
    if not isinstance(value, dict):
        return None, [f"Invalid torchrun: {reprlib.repr(value)}, should be a map"]
    values, messages = read_fields(value, _TORCHRUN)
    unsupported = [key for key in value if key not in _TORCHRUN][:_MOST_KEYS_CHECKED]
    messages += [f"unsupported parameter {key!s:.80} in torchrun" for key in unsupported]
    return Torchrun(**values), messages


def _is_model_parallel(handler: object) -> bool | None:
    # The section is the handler's own; the server looks only for what changes the devices of a worker.
    return True if isinstance(handler, dict) and handler.get("model_parallel") is True else None


def _misspelt(document: dict[str, object]) -> list[str]:
    known = (*_FIELDS, "torchrun", *_OF_HANDLERS)
    unknown = [key for key in document if isinstance(key, str) and key not in known][:_MOST_KEYS_CHECKED]
    suspects = {key: nearest(key, _FIELDS, _NEAR_MISS) for key in unknown}
    return [f"{key:.80} goes to the handler only, did you mean {meant}?" for key, meant in suspects.items() if meant]


def _inconsistent(config: ModelConfig) -> list[str]:
    messages = []
    if config.max_workers and config.min_workers is None:
        messages.append(f"maxWorkers: {config.max_workers} has no effect without minWorkers")
    if config.max_workers and config.min_workers and config.max_workers < config.min_workers:
        messages.append(f"maxWorkers: {config.max_workers} is less than minWorkers: {config.min_workers}, raised to it")
    if config.stateful and not config.sequence_max_idle_ms:
        messages.append("sequenceBatching has no effect without sequenceMaxIdleMSec greater than 0")
    if config.max_batch_delay_ms == 0:
        messages.append("maxBatchDelay: 0 counts as not set; 1 is the shortest")
    if config.parallel_level and config.parallel_type is None:
        messages.append(f"parallelLevel: {config.parallel_level} has no effect without parallelType")
    return messages
