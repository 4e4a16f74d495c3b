"""The server's configuration as everything else sees it: read once at start, never changed."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from model_server.config.addresses import Address
from model_server.config.grpc import DEFAULT_GRPC, GrpcConfig
from model_server.config.metrics_file import MetricsConfig
from model_server.config.model_snapshot import SnapshotModel
from model_server.config.tls import TlsConfig
from model_server.logs.settings import LogSettings

DEFAULT_INFERENCE_ADDRESS = Address("http", "127.0.0.1", 8080)
DEFAULT_MANAGEMENT_ADDRESS = Address("http", "127.0.0.1", 8081)

_LONGEST_URL = 8192


@dataclass(frozen=True, slots=True)
class ConfigWarning:
    """One line for the log. `is_mistake`: an unknown or mistyped key or value, which `--check-config` fails on."""

    message: str
    is_mistake: bool = True

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The flags that change the configuration; None, () and False mean "not given"."""

    ts_config: Path | None = None
    model_store: Path | None = None
    workflow_store: Path | None = None
    models: tuple[str, ...] = ()
    log_config: Path | None = None
    cpp_log_config: Path | None = None
    plugins_path: str | None = None
    no_config_snapshots: bool = False
    disable_token_auth: bool = False
    enable_model_api: bool = False
    pid_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """Effective text of one key and where it came from: "default", "FILE:LINE", "command line" or "environment X"."""

    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class StartupModel:
    """One item of `--models` / `load_models`: `url` or `name=url`."""

    name: str | None
    url: str


@dataclass(frozen=True, slots=True)
class Cors:
    """Values sent verbatim in the access-control-allow-* headers; None: header not sent."""

    allowed_origin: str | None = None
    allowed_methods: str | None = None
    allowed_headers: str | None = None


@dataclass(frozen=True, slots=True)
class SequenceHeaders:
    """Names of the headers of stateful inference, exactly as clients have to spell them."""

    id: str = "ts_request_sequence_id"
    start: str = "ts_request_sequence_start"
    end: str = "ts_request_sequence_end"

    @property
    def environment(self) -> dict[str, str]:
        """How handlers learn the names."""
        return {f"TS_REQUEST_SEQUENCE_{key.upper()}": getattr(self, key) for key in ("id", "start", "end")}


@dataclass(frozen=True, slots=True)
class DownloadRules:
    """What may be fetched into the model store, and how.

    Attributes:
        allowed_urls: one of these must match the whole of every URL, those of redirects included; without any nothing
            is fetched.
        limit_bytes: of one archive.
        timeout_s: for one archive, everything included.
        use_env_proxy: go through the proxies that HTTP_PROXY and its like name.
    """

    allowed_urls: tuple[re.Pattern[str], ...] = ()
    limit_bytes: int = 65_536 << 20
    timeout_s: int = 3600
    use_env_proxy: bool = False

    def allow(self, url: str) -> bool:
        # Patterns backtrack: the time they need must be bounded.
        return len(url) <= _LONGEST_URL and any(pattern.fullmatch(url) for pattern in self.allowed_urls)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOverrides:
    """One version's entry of `models={...}`; None: not given there."""

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    runtime: str | None = None


# Model name -> version -> what config.properties says about it.
ModelsTable = Mapping[str, Mapping[str, ModelOverrides]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything the operator decides. Field defaults are those of an empty config.properties.

    Equal inference and management addresses mean one combined listener. `model_stores`: the first one that has an
    archive counts. `model_snapshot` is what is served at start instead of `load_models`; None: there is none.
    `tls` None: no listener uses it. `requirements_cache` None: the user's cache. `unknown_keys` of the file are kept
    for snapshots.
    """

    inference_address: Address = DEFAULT_INFERENCE_ADDRESS
    management_address: Address = DEFAULT_MANAGEMENT_ADDRESS
    grpc: GrpcConfig = DEFAULT_GRPC
    tls: TlsConfig | None = None
    max_request_size_bytes: int = 6_553_500
    max_response_size_bytes: int = 6_553_500
    cors: Cors = Cors()
    enable_model_api: bool = False
    disable_token_authorization: bool = False
    token_expiration_min: float = 60.0

    model_stores: tuple[Path, ...] = ()
    downloads: DownloadRules = DownloadRules()
    load_models: tuple[StartupModel, ...] | Literal["all"] = ()
    models: ModelsTable = field(default_factory=dict)
    model_snapshot: tuple[SnapshotModel, ...] | None = None
    writes_snapshots: bool = True
    default_workers_per_model: int = 0
    job_queue_size: int = 100
    default_response_timeout_s: int = 120
    default_startup_timeout_s: int = 120
    unregister_model_timeout_s: int = 120

    number_of_gpu: int | None = None
    initial_worker_port: int = 9000
    default_service_handler: str | None = None
    service_envelope: str | None = None
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    blacklist_env_vars: re.Pattern[str] | None = None
    install_py_dep_per_model: bool = False
    requirements_timeout_s: int = 600
    requirements_cache: Path | None = None
    sequence_headers: SequenceHeaders = SequenceHeaders()
    ipex_enable: bool = False
    ipex_gpu_enable: bool = False

    python: str = sys.executable
    fork_workers: bool = True
    log_location: Path = Path("logs")
    logs: LogSettings = field(default_factory=LogSettings)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    temp_dir: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    config_file: Path | None = None
    unknown_keys: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def is_combined_listener(self) -> bool:
        # Port 0 is any free port: two of them are two ports.
        is_fixed = self.inference_address.is_unix or self.inference_address.port != 0
        return is_fixed and self.inference_address == self.management_address

    @property
    def origins(self) -> Mapping[str, str]:
        """Key of config.properties -> where its effective value came from."""
        return {key: setting.origin for key, setting in self.settings.items()}

    @property
    def handler_environment(self) -> dict[str, str]:
        """Variables by which workers and handlers learn what the server is set to."""
        flags = {
            "TS_DECODE_INPUT_REQUEST": self.decode_input_request,
            "TS_IPEX_ENABLE": self.ipex_enable,
            "TS_IPEX_GPU_ENABLE": self.ipex_gpu_enable,
        }
        texts = {"TS_DEFAULT_SERVICE_HANDLER": self.default_service_handler or ""}
        return {name: str(flag).lower() for name, flag in flags.items()} | texts | self.sequence_headers.environment

    def visible_environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What model code may see of the server's environment."""
        hidden = self.blacklist_env_vars
        return {key: value for key, value in environ.items() if not (hidden and hidden.fullmatch(key))}

    def usable_gpus(self, detected: int) -> int:
        """GPUs the server may use, of those detected."""
        return detected if self.number_of_gpu is None else min(detected, self.number_of_gpu)
