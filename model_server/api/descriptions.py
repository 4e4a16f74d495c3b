"""`GET /models/{name}`: a version as JSON, TorchServe's keys first and in its order, ours after them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from model_server.metrics.gpus import GpuReading
from model_server.serving.model import Model
from model_server.serving.placement import Gpu
from model_server.serving.replica import Replica


def describe_version(model: Model, readings: Sequence[GpuReading]) -> dict[str, Any]:
    """`readings`: what the machine's GPUs do; empty where nobody could tell, or there are none."""
    identity, settings, queue = model.identity, model.settings, model.queue
    document = {
        "modelName": identity.name,
        "modelVersion": identity.version,
        "modelUrl": identity.url,
        "runtime": identity.runtime,
        "minWorkers": settings.min_workers,
        "maxWorkers": settings.max_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "responseTimeout": settings.response_timeout_s,
        "startupTimeout": settings.startup_timeout_s,
        "maxRetryTimeoutInSec": settings.max_retry_timeout_s,
        "clientTimeoutInMills": settings.client_timeout_ms,
        "parallelType": settings.parallel_type or "",
        "parallelLevel": settings.parallel_level,
        "deviceType": settings.device_type,
    }
    if settings.device_ids is not None:
        document["deviceIds"] = list(settings.device_ids)
    document |= {
        "continuousBatching": settings.continuous_batching,
        "useJobTicket": settings.use_job_ticket,
        "useVenv": settings.use_venv,
        "stateful": settings.stateful,
        "sequenceMaxIdleMSec": settings.sequence_max_idle_ms,
        "sequenceTimeoutMSec": settings.sequence_timeout_ms,
        # TorchServe copies these two only for models with sequences.
        "maxNumSequence": settings.max_num_sequence if settings.sequence_max_idle_ms else 0,
        "maxSequenceJobQueueSize": settings.max_sequence_job_queue_size if settings.sequence_max_idle_ms else 0,
        "loadedAtStartup": identity.loaded_at_startup,
        "workers": [_describe_worker(replica, readings) for replica in model.replicas],
        "jobQueueStatus": {
            "remainingCapacity": max(0, queue.capacity - len(queue)),
            "pendingRequests": len(queue),
        },
        "state": model.state,
        "batchingPolicy": settings.batching_policy,
    }
    return document


def _describe_worker(replica: Replica, readings: Sequence[GpuReading]) -> dict[str, Any]:
    gpus = replica.plan.assignment.gpus
    document: dict[str, Any] = {
        "id": replica.id,
        "startTime": _timestamp(replica.started_at),
        "status": "READY" if replica.state == "ready" else "UNLOADING",
        "memoryUsage": replica.memory_bytes(),
        "pid": replica.pid,
        "gpu": bool(gpus),
        "gpuUsage": _gpu_usage(gpus, readings) if gpus else "N/A",
        "state": replica.state,
        "device": replica.plan.assignment.label,
        "restarts": max(0, replica.starts - 1),
    }
    if replica.reason is not None:
        document["reason"] = replica.reason
    return document


def _gpu_usage(gpus: Sequence[Gpu], readings: Sequence[GpuReading]) -> str:
    """In the text form of TorchServe 0.12, its missing blanks and its spelling of a failure included."""
    texts = [
        f"gpuId::{gpu.number} utilization.gpu [%]::{_told(reading.utilization_percent, '%')} "
        f"utilization.memory [%]::{_told(reading.memory_utilization_percent, '%')} "
        f"memory.used [MiB]::{_told(reading.memory_used_mib, 'MiB')}"
        for gpu in gpus
        for reading in readings
        if reading.is_called(gpu.visible_as)
    ]
    return " ".join(texts) if len(texts) == len(gpus) else "failed to obtained gpu usage"


def _told(value: int | None, unit: str) -> str:
    return "[N/A]" if value is None else f"{value} {unit}"


def _timestamp(moment: datetime) -> str:
    """Local time with a literal Z, as TorchServe writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
