"""What the server says about itself at its start, under TorchServe's labels."""

from __future__ import annotations

from pathlib import Path

from model_server import __version__
from model_server.config.server import ServerConfig

# The version that clients and handlers may take this server for.
TORCHSERVE_VERSION = "0.12.0"


def startup_info(config: ServerConfig, cpu_count: int, gpu_count: int) -> str:
    """One `label: value` per line. Labels of the JVM and of what is not there are left out."""
    return "\n".join(f"{label}: {_shown(value)}" for label, value in _rows(config, cpu_count, gpu_count))


def _rows(config: ServerConfig, cpu_count: int, gpu_count: int) -> list[tuple[str, object]]:
    texts = {key: setting.text for key, setting in config.settings.items()}
    stores = ",".join(map(str, config.model_stores))
    return [
        ("Torchserve version", f"{TORCHSERVE_VERSION} (served by modelserver {__version__})"),
        ("TS Home", Path(__file__).parents[2]),
        ("Current directory", Path.cwd()),
        ("Temp directory", config.temp_dir),
        ("Metrics config path", texts.get("metrics_config")),
        ("Number of GPUs", gpu_count),
        ("Number of CPUs", cpu_count),
        ("Python executable", config.python),
        ("Config file", config.config_file),
        ("Inference address", config.inference_address),
        ("Management address", config.management_address),
        ("Metrics address", texts.get("metrics_address")),
        ("Model Store", stores),
        ("Initial Models", texts.get("load_models")),
        ("Log dir", config.logs.folder),
        ("Metrics dir", config.logs.metrics_folder),
        ("Default workers per model", config.default_workers_per_model or max(1, gpu_count)),
        ("Blacklist Regex", texts.get("blacklist_env_vars")),
        ("Maximum Response Size", config.max_response_size_bytes),
        ("Maximum Request Size", config.max_request_size_bytes),
        ("Limit Maximum Image Pixels", config.limit_max_image_pixels),
        ("Allowed Urls", f"[{texts.get('allowed_urls') or ''}]"),
        ("Custom python dependency for model allowed", config.install_py_dep_per_model),
        ("Enable metrics API", texts.get("enable_metrics_api")),
        ("Metrics mode", (texts.get("metrics_mode") or "").upper()),
        ("Disable system metrics", texts.get("disable_system_metrics")),
        ("Workflow Store", texts.get("workflow_store") or stores),
        ("Model config", texts.get("models")),
        ("System metrics command", texts.get("system_metrics_cmd") or "default"),
        ("Model API enabled", config.enable_model_api),
    ]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = "N/A" if value is None or value == "" else str(value)
    return " ".join(text.splitlines())
