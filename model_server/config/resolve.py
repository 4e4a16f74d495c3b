"""What holds for one version of a model, out of the request, the archive, `models=` and the server's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from model_server.config.model_config import BatchingPolicy, DeviceType, ModelConfig, ParallelType, Torchrun
from model_server.config.model_snapshot import SnapshotModel
from model_server.config.server import ConfigWarning, ModelOverrides, ModelsTable, ServerConfig

DEFAULT_BATCH_SIZE = 1
DEFAULT_MAX_BATCH_DELAY_MS = 100
DEFAULT_MAX_RETRY_TIMEOUT_S = 300


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

    `client_timeout_ms`, `sequence_timeout_ms`: 0 is never. `runtime` None: the manifest's. `device_ids` None: any
    device of `device_type`. `stateful` is TorchServe's name for sequence batching. `origins`: field -> where its value
    came from.
    """

    min_workers: int = 0
    max_workers: int = 0
    batch_size: int = DEFAULT_BATCH_SIZE
    max_batch_delay_ms: int = DEFAULT_MAX_BATCH_DELAY_MS
    response_timeout_s: int = 120
    startup_timeout_s: int = 120
    explanation_timeout_s: int = 120
    job_queue_size: int = 100
    max_retry_timeout_s: int = DEFAULT_MAX_RETRY_TIMEOUT_S
    client_timeout_ms: int = 0
    device_type: DeviceType = "cpu"
    device_ids: tuple[int, ...] | None = None
    parallel_type: ParallelType | None = None
    parallel_level: int = 0
    model_parallel: bool = False
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


# Names of sources, as `ModelSettings.origins` has them.
REQUEST = "request"
YAML = "model-config.yaml"
TABLE = "models="
SNAPSHOT = "model_snapshot"
DEFAULT_WORKERS = "default_workers_per_model"
DEFAULT = "default"

_CHOSEN_BY_RULE = ("min_workers", "max_workers", "device_type", "device_ids")
_SETTINGS = [setting.name for setting in fields(ModelSettings) if setting.name not in ("origins", "warnings")]
_OF_ARCHIVE = [setting.name for setting in fields(ModelConfig) if setting.name in _SETTINGS]
_PRECEDENCE: dict[str, tuple[str, ...]] = {name: (YAML,) for name in _OF_ARCHIVE if name not in _CHOSEN_BY_RULE} | {
    "batch_size": (REQUEST, YAML, TABLE),
    "max_batch_delay_ms": (REQUEST, YAML, TABLE),
    "response_timeout_s": (YAML, REQUEST, TABLE),
    "startup_timeout_s": (YAML, REQUEST, TABLE),
    "runtime": (TABLE, REQUEST),
}
# Settings whose default is another setting's value.
_DEFAULTS_OF_OTHERS = {
    "response_timeout_s": "default_response_timeout",
    "startup_timeout_s": "default_startup_timeout",
    "explanation_timeout_s": "response_timeout_s",
    "job_queue_size": "job_queue_size",
}
# What requests may get wrong: less than this (0 unless named) counts as not given. With a startup_timeout of 0 no
# worker starts, as in TorchServe.
_LOWEST = {"batch_size": 1, "response_timeout_s": 1}
_SEQUENCE_SETTINGS = ("stateful", "sequence_timeout_ms", "max_num_sequence", "max_sequence_job_queue_size")


def find_overrides(models: ModelsTable, name: str, version: str) -> tuple[ModelOverrides | None, ConfigWarning | None]:
    """What `models=` says about this version of this model.

    An entry for one single version is meant for the archive at hand even when the versions differ (TorchServe
    ignored it silently): it is applied, with a warning that names both.
    """
    versions = models.get(name, {})
    if version in versions or not versions:
        return versions.get(version), None
    where = f"models: {name} has settings for version {', '.join(versions)}, the archive is version {version}"
    if len(versions) > 1:
        return None, ConfigWarning(f"{where}: none applied")
    return next(iter(versions.values())), ConfigWarning(f"{where}: applied all the same")


def resolve_model(
    request: RegisterOverrides,
    yaml: ModelConfig | None,
    overrides: ModelOverrides | None,
    server: ServerConfig,
    *,
    startup: bool,
    cpu_count: int,
    gpu_count: int,
) -> ModelSettings:
    """Settle every setting of one version.

    Precedence: batch size and delay: request > yaml > `models=` > default; timeouts: yaml > request > `models=` >
    default. Workers at start: yaml > `models=` > default_workers_per_model (0: one per GPU, or one); workers at
    registration: the larger of initial_workers and the archive's minWorkers, maxWorkers raised to fit. Numbers out of
    range (a batch size below 1, a delay below 0) count as not given.

    Args:
        startup: True for models loaded with the server, False for the register API.
        cpu_count: cores of this machine.
        gpu_count: GPUs found on this machine; `number_of_gpu` may lower it.
    """
    archive, table = yaml or ModelConfig(), overrides or ModelOverrides()
    usable = _without_idle_parts(archive)
    chosen = _Chosen()
    sources = {REQUEST: request, YAML: usable, TABLE: table}
    for name, order in _PRECEDENCE.items():
        chosen.first(name, {source: getattr(sources[source], name) for source in order})
    _choose_device(chosen, usable, server.usable_gpus(gpu_count))
    if startup:
        _choose_startup_workers(chosen, archive, table, server, server.usable_gpus(gpu_count))
    else:
        _choose_registration_workers(chosen, archive, request, server)
    _warn_of_crowding(chosen, cpu_count)
    if usable.parallel_type in ("pp", "tp", "pptp"):
        chosen.warnings.append(
            f"parallelType: {usable.parallel_type} starts one process per worker, which sees all its devices: "
            "torchrun is not there in this version"
        )
    return chosen.over(_server_defaults(server))


def restore_settings(settings: ModelSettings, model: SnapshotModel) -> ModelSettings:
    """What a snapshot says about a version holds, whatever its archive and the configuration say now."""
    restored: dict[str, Any] = {
        "min_workers": model.min_workers,
        "max_workers": max(model.min_workers, model.max_workers),
        "batch_size": max(1, model.batch_size),
        "max_batch_delay_ms": model.max_batch_delay_ms,
        "response_timeout_s": max(1, model.response_timeout_s),
        "startup_timeout_s": max(1, model.startup_timeout_s),
        "runtime": model.runtime,
    }
    origins = {**settings.origins, **dict.fromkeys(restored, SNAPSHOT)}
    if origins["explanation_timeout_s"] == _DEFAULTS_OF_OTHERS["explanation_timeout_s"]:
        restored["explanation_timeout_s"] = restored["response_timeout_s"]
    return replace(settings, **restored, origins=origins)


class _Chosen:
    """What the sources gave, and which of them did. The state here is the three attributes; methods add to them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.warnings: list[str] = []

    def set(self, name: str, value: object, origin: str) -> None:
        self.values[name] = value
        self.origins[name] = origin

    def first(self, name: str, candidates: Mapping[str, object]) -> None:
        """Take the first candidate that is given and in range; without one the default stays."""
        for origin, value in candidates.items():
            if value is not None and not (isinstance(value, int) and value < _LOWEST.get(name, 0)):
                self.set(name, value, origin)
                return

    def set_workers(self, min_workers: int, max_workers: int | None, origin: str) -> None:
        self.set("min_workers", min_workers, origin)
        self.set("max_workers", max(min_workers, max_workers or 0), origin)

    def over(self, defaults: ModelSettings) -> ModelSettings:
        """The defaults with everything chosen laid over them."""
        settings = replace(defaults, **self.values)
        if "explanation_timeout_s" not in self.values:
            settings = replace(settings, explanation_timeout_s=settings.response_timeout_s)
        origins = dict.fromkeys(_SETTINGS, DEFAULT) | _DEFAULTS_OF_OTHERS | self.origins
        return replace(settings, origins=origins, warnings=tuple(self.warnings))


def _server_defaults(server: ServerConfig) -> ModelSettings:
    return ModelSettings(
        response_timeout_s=server.default_response_timeout_s,
        startup_timeout_s=server.default_startup_timeout_s,
        job_queue_size=server.job_queue_size,
    )


def _without_idle_parts(archive: ModelConfig) -> ModelConfig:
    """Take out what TorchServe ignores because the setting it depends on is missing."""
    if archive.max_batch_delay_ms == 0:  # counts as not set
        archive = replace(archive, max_batch_delay_ms=None)
    if not archive.sequence_max_idle_ms:
        archive = replace(archive, **dict.fromkeys(_SEQUENCE_SETTINGS))
    if archive.torchrun is not None:
        archive = replace(archive, parallel_level=archive.torchrun.nproc_per_node)
    if archive.parallel_type is None:
        archive = replace(archive, parallel_level=None)
    return archive


def _choose_device(chosen: _Chosen, archive: ModelConfig, gpus: int) -> None:
    device_type = archive.device_type or ("gpu" if gpus else "cpu")
    if device_type == "gpu" and not gpus:
        chosen.warnings.append("deviceType: gpu, but there is no GPU to use: running on cpu")
        device_type = "cpu"
    chosen.set("device_type", device_type, YAML if archive.device_type else DEFAULT)
    if not archive.device_ids or device_type == "cpu":
        return
    if all(0 <= device_id < gpus for device_id in archive.device_ids):
        chosen.set("device_ids", archive.device_ids, YAML)
    else:
        chosen.warnings.append(f"deviceIds: {list(archive.device_ids)} ignored, GPUs here are 0 to {gpus - 1}")


def _choose_startup_workers(
    chosen: _Chosen, archive: ModelConfig, table: ModelOverrides, server: ServerConfig, gpus: int
) -> None:
    if archive.min_workers is not None:
        chosen.set_workers(archive.min_workers, archive.max_workers, YAML)
    elif table.min_workers is not None:
        chosen.set_workers(table.min_workers, table.max_workers, TABLE)
    elif server.default_workers_per_model:
        chosen.set_workers(server.default_workers_per_model, None, DEFAULT_WORKERS)
    else:
        # TorchServe starts one per core where there is no GPU, which takes all memory of a small machine.
        chosen.set_workers(_one_per_device(chosen, gpus), None, DEFAULT)


def _one_per_device(chosen: _Chosen, gpus: int) -> int:
    """Workers that fill the model's devices once; 1 on CPU and for a model that is spread over all devices."""
    if chosen.values["device_type"] == "cpu" or chosen.values.get("model_parallel"):
        return 1
    devices = len(chosen.values.get("device_ids", range(gpus)))
    return max(1, devices // (chosen.values.get("parallel_level") or 1))


def _choose_registration_workers(
    chosen: _Chosen, archive: ModelConfig, request: RegisterOverrides, server: ServerConfig
) -> None:
    minimum = archive.min_workers or 0
    max_workers = archive.max_workers if minimum else None
    if request.initial_workers is not None and request.initial_workers >= minimum:
        chosen.set_workers(request.initial_workers, max_workers, REQUEST)
    elif minimum:
        chosen.set_workers(minimum, max_workers, YAML)
    elif request.initial_workers is None and server.default_workers_per_model:
        chosen.set_workers(server.default_workers_per_model, None, DEFAULT_WORKERS)


def _warn_of_crowding(chosen: _Chosen, cpu_count: int) -> None:
    workers = chosen.values.get("min_workers", 0)
    if chosen.values["device_type"] == "cpu" and workers > cpu_count:
        chosen.warnings.append(f"{workers} workers share {cpu_count} CPU cores: more workers than cores are slower")
    if chosen.values.get("model_parallel") and workers > 1:
        chosen.warnings.append(
            f"model_parallel: {workers} workers share the same GPUs, each with a model of its own: use 1"
        )
