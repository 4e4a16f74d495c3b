"""Every key of config.properties: type, default, meaning, and what it does in this version."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

KeyType = Literal["string", "integer", "number", "boolean", "address", "path", "json", "regex"]


class Effect(Enum):
    """What setting a key does in this version."""

    NOW = "has an effect"
    LATER = "has no effect yet"
    NEVER = "has no effect here"  # belongs to the JVM, its network library or another program


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `default` is the text an absent key stands for; None: unset. `env`: variable that overrides it."""

    name: str
    type: KeyType
    default: str | None
    help: str
    effect: Effect
    env: str | None


_ENV_NAMES: dict[str, str | None] = {
    "token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN",
    "ts_open_inference_protocol": "TS_OPEN_INFERENCE_PROTOCOL",
    "ts_header_key_sequence_id": "TS_HEADER_KEY_SEQUENCE_ID",
    "ts_header_key_sequence_start": "TS_HEADER_KEY_SEQUENCE_START",
    "ts_header_key_sequence_end": "TS_HEADER_KEY_SEQUENCE_END",
    **dict.fromkeys(
        (
            "models",
            "model_snapshot",
            "use_native_io",
            "io_ratio",
            "metric_time_interval",
            "enable_envvars_config",
            "system_metrics_cmd",
            "use_env_allowed_urls",
            "vmargs",
            "plugins_path",
            "NUM_WORKERS",
        )
    ),
}


def _key(name: str, type_: KeyType, default: str | None, help_: str, effect: Effect = Effect.NOW) -> Key:
    return Key(name, type_, default, help_, effect, _ENV_NAMES.get(name, f"TS_{name.upper()}"))


_LATER, _NEVER = Effect.LATER, Effect.NEVER

_NETWORK = (
    _key("inference_address", "address", "http://127.0.0.1:8080", "Where predictions are served"),
    _key(
        "management_address",
        "address",
        "http://127.0.0.1:8081",
        "Where models are managed; may equal inference_address",
    ),
    _key("metrics_address", "address", "http://127.0.0.1:8082", "Where metrics are served"),
    _key("grpc_inference_address", "string", "127.0.0.1", "Host of the gRPC inference API"),
    _key("grpc_management_address", "string", "127.0.0.1", "Host of the gRPC management API"),
    _key("grpc_inference_port", "integer", "7070", "Port of the gRPC inference API"),
    _key("grpc_management_port", "integer", "7071", "Port of the gRPC management API"),
    _key("grpc_inference_max_connection_age_ms", "integer", None, "Age limit of a gRPC inference connection"),
    _key("grpc_management_max_connection_age_ms", "integer", None, "Age limit of a gRPC management connection"),
    _key("grpc_inference_max_connection_age_grace_ms", "integer", None, "Grace after the inference limit"),
    _key("grpc_management_max_connection_age_grace_ms", "integer", None, "Grace after the management limit"),
    _key("enable_grpc_ssl", "boolean", "false", "TLS for both gRPC servers"),
    _key("keystore", "path", None, "PKCS12 file with the TLS key and certificate chain"),
    _key("keystore_pass", "string", "changeit", "Password of the key store, which must have one"),
    _key("keystore_type", "string", "PKCS12", "Not needed: the content of the key store tells what it is"),
    _key("private_key_file", "path", None, "TLS private key, PEM, without a password"),
    _key("certificate_file", "path", None, "TLS certificate chain, PEM, the server's own certificate first"),
    _key("cors_allowed_origin", "string", None, "Value of access-control-allow-origin on every answer"),
    _key("cors_allowed_methods", "string", None, "Value of access-control-allow-methods on every answer"),
    _key("cors_allowed_headers", "string", None, "Value of access-control-allow-headers on every answer"),
    _key("max_request_size", "integer", "6553500", "Largest request body, bytes"),
    _key("max_response_size", "integer", "6553500", "Largest answer of a worker, bytes"),
    _key("number_of_netty_threads", "integer", "0", "Threads of the JVM's HTTP server", _NEVER),
    _key("netty_client_threads", "integer", "0", "Threads of the JVM's worker connections", _NEVER),
    _key("prefer_direct_buffer", "boolean", "false", "Memory kind of the JVM's buffers", _NEVER),
    _key("use_native_io", "boolean", "true", "Native sockets of the JVM", _NEVER),
    _key("io_ratio", "integer", "50", "Share of I/O in the JVM's event loop, percent", _NEVER),
    _key("ts_open_inference_protocol", "boolean", "false", "Serve the Open Inference Protocol"),
)

_MODELS = (
    _key("model_store", "path", None, "Folder with the archives, or several with commas between them"),
    _key("workflow_store", "path", None, "Folder with workflow archives; the model store when unset", _LATER),
    _key("load_models", "string", None, "Models to load at start: all, or a comma-separated list of [name=]archive"),
    _key("models", "json", None, 'Settings per model and version: {"name": {"1.0": {"batchSize": 4}}}'),
    _key("model_snapshot", "json", None, "Models of an earlier run, written by the server; wins over load_models"),
    _key("default_workers_per_model", "integer", "0", "Workers of a model that names none; 0: one per GPU, or one"),
    _key("job_queue_size", "integer", "100", "Requests that may wait per model version"),
    _key("default_response_timeout", "integer", "120", "Seconds a worker may take for a batch"),
    _key("default_startup_timeout", "integer", "120", "Seconds a worker may take to load its model"),
    _key("unregister_model_timeout", "integer", "120", "Seconds a worker may take to stop"),
    _key("number_of_gpu", "integer", None, "Use at most so many of the GPUs found; all when unset"),
    _key("initial_worker_port", "integer", "9000", "First worker id; no ports are opened"),
    _key("initial_distribution_port", "integer", "29500", "First port for workers spread over processes", _LATER),
    _key("default_service_handler", "string", None, "Handler of archives that name none, file_or_module[:function]"),
    _key("service_envelope", "string", None, "How request bodies are wrapped: body, json, kserve or kservev2"),
    _key("decode_input_request", "boolean", "true", "Decode JSON and text before the handler sees them"),
    _key(
        "install_py_dep_per_model",
        "boolean",
        "false",
        "Install each archive's requirements file for that model alone; pip may run code of the packages",
    ),
    _key("requirements_timeout", "integer", "600", "Seconds that installing a model's requirements may take"),
    _key(
        "requirements_cache",
        "path",
        None,
        "Folder that keeps what was installed; when unset, modelserver/environments in the user's cache folder",
    ),
    _key("limit_max_image_pixels", "boolean", "true", "Keep the image library's limit on pixels"),
    _key("blacklist_env_vars", "regex", None, "Environment variables whose whole name matches are hidden from workers"),
    _key("cpu_launcher_enable", "boolean", "false", "Start CPU workers through PyTorch's Xeon launcher", _NEVER),
    _key("cpu_launcher_args", "string", None, "Arguments of that launcher", _NEVER),
    _key("ipex_enable", "boolean", "false", "Tell handlers (TS_IPEX_ENABLE) to use Intel's extension on CPU"),
    _key("ipex_gpu_enable", "boolean", "false", "Tell handlers (TS_IPEX_GPU_ENABLE) to use it on GPU"),
    _key("python", "path", None, "Interpreter of the workers; the server's own when unset"),
    _key(
        "fork_workers",
        "boolean",
        "true",
        "Fork workers from a process that has PyTorch and transformers in memory; on machines with GPUs they never are",
    ),
    _key("debug", "boolean", "false", "Start no workers, wait for ones started by hand", _NEVER),
    _key("ts_header_key_sequence_id", "string", "ts_request_sequence_id", "Header with a sequence's id"),
    _key("ts_header_key_sequence_start", "string", "ts_request_sequence_start", "Header that starts one"),
    _key("ts_header_key_sequence_end", "string", "ts_request_sequence_end", "Header that ends one"),
)

_OTHER = (
    _key(
        "allowed_urls",
        "string",
        None,
        "Patterns, with commas between them, one of which has to match the whole URL of a model; none when unset",
    ),
    _key("use_env_allowed_urls", "boolean", "false", "Let TS_ALLOWED_URLS override allowed_urls"),
    _key("download_limit_mib", "integer", "65536", "Largest archive that is fetched, MiB"),
    _key("download_timeout", "integer", "3600", "Seconds that fetching an archive may take"),
    _key("use_env_proxy", "boolean", "false", "Fetch through the proxies that HTTP_PROXY and HTTPS_PROXY name"),
    _key("enable_envvars_config", "boolean", "false", "Let TS_* environment variables override this file"),
    _key("disable_token_authorization", "boolean", "false", "Serve without tokens"),
    _key("token_expiration_min", "number", "60", "Minutes a token is valid"),
    _key("enable_model_api", "boolean", "false", "Allow registering and unregistering while the server runs"),
    _key("enable_metrics_api", "boolean", "true", "Serve metrics on metrics_address"),
    _key("metrics_mode", "string", "log", "Where metrics go: log, prometheus or legacy"),
    _key("metrics_config", "path", None, "File that declares the metrics; the built-in one when unset"),
    _key("model_metrics_auto_detect", "boolean", "false", "Accept metrics the file does not declare"),
    _key("disable_system_metrics", "boolean", "false", "Do not measure CPU, memory, disk and GPU"),
    _key("system_metrics_cmd", "string", None, "Script that measures them: the server does it itself", _NEVER),
    _key("metric_time_interval", "integer", "60", "Seconds between two such measurements"),
    _key("log_format", "string", "text", "Form of the log's lines: text (TorchServe's) or json"),
    _key("log_level", "string", "INFO", "Lowest level that is logged, of all or of some: INFO, ACCESS_LOG=OFF"),
    _key("async_logging", "boolean", "false", "Asynchronous loggers of the JVM", _NEVER),
    _key("cpp_log_config", "path", None, "Logging of C++ workers", _NEVER),
    _key("vmargs", "string", None, "Arguments of the JVM", _NEVER),
    _key("plugins_path", "string", None, "Plug-ins for the JVM", _NEVER),
    _key("model_server_home", "path", None, "Folder TorchServe is installed in", _NEVER),
    _key("NUM_WORKERS", "integer", "1", "Read by a SageMaker plug-in for the JVM", _NEVER),
)

CATALOGUE: dict[str, Key] = {key.name: key for key in (*_NETWORK, *_MODELS, *_OTHER)}
