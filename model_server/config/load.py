"""Build the `ServerConfig`: typed values out of the texts that `sources` collected."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_server.config.addresses import DefaultPorts
from model_server.config.errors import ConfigError, InvalidConfiguration
from model_server.config.grpc_settings import read_grpc
from model_server.config.keys import CATALOGUE, Effect
from model_server.config.log_settings import read_log_settings
from model_server.config.metrics_settings import read_metrics_config
from model_server.config.model_snapshot import SnapshotModel, missing_from_stores, parse_model_snapshot
from model_server.config.overrides import parse_models
from model_server.config.server import (
    CommandLine,
    ConfigWarning,
    Cors,
    DownloadRules,
    SequenceHeaders,
    ServerConfig,
    Setting,
)
from model_server.config.sources import collect_settings, find_config_file
from model_server.config.startup_models import parse_startup_models
from model_server.config.tls_settings import read_tls
from model_server.config.values import Values

# No operator means exactly these: patterns that match one of them match everything.
_ANY_URL = ("https://any.host.invalid/x.mar", "file:///any/file.mar")

_LONGEST_TOKEN_MIN = 1e9  # 1,900 years: what a time stamp can hold


def load_config(cli: CommandLine, environ: Mapping[str, str], cwd: Path) -> tuple[ServerConfig, list[ConfigWarning]]:
    """Read everything the operator has set.

    Precedence: TS_* environment (where the file allows it) > command line > file > default. A key or value that makes
    no sense is a warning and the default holds, so that a file made for TorchServe always starts.

    Raises:
        ConfigError: a file or folder that was named does not exist, or an address or pattern is not usable.
    """
    config_file, file_warnings = find_config_file(cli, environ, cwd)
    collected = collect_settings(cli, environ, config_file)
    values = Values(collected.settings)
    _check_named_files(cli, cwd)
    stores = _model_stores(values.text("model_store"), cwd)
    logs, log_warnings = read_log_settings(values, environ, cwd, cwd / cli.log_config if cli.log_config else None)
    metrics, metrics_warnings = read_metrics_config(values, cwd)
    inference = values.address("inference_address", DefaultPorts(http=80, https=443))
    management = values.address("management_address", DefaultPorts(http=8081, https=8444))
    grpc = read_grpc(values, environ)
    listeners = [inference, management, *([metrics.address] if metrics.address else [])]
    tls, tls_warnings = read_tls(
        values, cwd, for_http=any(address.is_tls for address in listeners), for_grpc=grpc.inference.address.is_tls
    )
    load_models, item_warnings = parse_startup_models(values.text("load_models") or "")
    models, entry_warnings = parse_models(values.text("models") or "{}")
    config = ServerConfig(
        inference_address=inference,
        management_address=management,
        grpc=grpc,
        tls=tls,
        max_request_size_bytes=values.integer("max_request_size", at_least=0),
        max_response_size_bytes=values.integer("max_response_size", at_least=1),
        cors=_cors(values),
        enable_model_api=values.boolean("enable_model_api"),
        disable_token_authorization=values.boolean("disable_token_authorization"),
        token_expiration_min=values.number("token_expiration_min", above=0, at_most=_LONGEST_TOKEN_MIN),
        model_stores=stores,
        downloads=_downloads(values),
        load_models=load_models,
        models=models,
        model_snapshot=_model_snapshot(values.text("model_snapshot"), stores),
        writes_snapshots=not cli.no_config_snapshots,
        default_workers_per_model=values.integer("default_workers_per_model", at_least=0),
        job_queue_size=values.integer("job_queue_size", at_least=1),
        default_response_timeout_s=values.integer("default_response_timeout", at_least=1),
        default_startup_timeout_s=values.integer("default_startup_timeout", at_least=1),
        unregister_model_timeout_s=values.integer("unregister_model_timeout", at_least=0),
        number_of_gpu=values.optional_integer("number_of_gpu", at_least=0),
        initial_worker_port=values.integer("initial_worker_port", at_least=0),
        default_service_handler=values.text("default_service_handler"),
        service_envelope=values.text("service_envelope"),
        decode_input_request=values.boolean("decode_input_request"),
        limit_max_image_pixels=values.boolean("limit_max_image_pixels"),
        blacklist_env_vars=_hidden_variables(values.text("blacklist_env_vars")),
        sequence_headers=_sequence_headers(values),
        ipex_enable=values.boolean("ipex_enable"),
        ipex_gpu_enable=values.boolean("ipex_gpu_enable"),
        install_py_dep_per_model=values.boolean("install_py_dep_per_model"),
        fork_workers=values.boolean("fork_workers"),
        requirements_timeout_s=values.integer("requirements_timeout", at_least=1),
        requirements_cache=_folder(values.text("requirements_cache"), cwd),
        python=values.text("python") or sys.executable,
        log_location=logs.folder,
        logs=logs,
        metrics=metrics,
        temp_dir=_temp_dir(environ),
        config_file=config_file,
        unknown_keys=collected.unknown,
        settings=values.effective,
    )
    warnings = [*file_warnings, *collected.warnings, *values.warnings, *log_warnings, *metrics_warnings, *tls_warnings]
    warnings += [*item_warnings, *entry_warnings]
    return config, [*warnings, *_notes(config), *_without_effect(collected.settings)]


def _check_named_files(cli: CommandLine, cwd: Path) -> None:
    for flag, path in (("--log-config", cli.log_config), ("--cpp-log-config", cli.cpp_log_config)):
        if path and not (cwd / path).is_file():
            raise ConfigError(f"{flag} file not found: {path}")
    if cli.workflow_store and not (cwd / cli.workflow_store).is_dir():
        raise ConfigError(f"--workflow-store directory not found: {cli.workflow_store}")


def _model_stores(text: str | None, cwd: Path) -> tuple[Path, ...]:
    """One folder, whatever its name, or several with commas between them."""
    if text is None:
        raise ConfigError("Missing mandatory parameter --model-store")
    # A folder whose own name has a comma was one store for TorchServe, and stays one.
    names = [text] if (cwd / text).is_dir() else [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text]:
        if not (cwd / name).is_dir():
            raise ConfigError(f"--model-store directory not found: {name}")
    return tuple((cwd / name).resolve() for name in names)


def _model_snapshot(text: str | None, stores: Sequence[Path]) -> tuple[SnapshotModel, ...] | None:
    if text is None:
        return None
    models = parse_model_snapshot(text)
    if problem := missing_from_stores(models, stores):
        where = ", ".join(map(str, stores))
        raise ConfigError(f"{problem} ({where}). Put it there, or start with another --ts-config.")
    return models


def _downloads(values: Values) -> DownloadRules:
    patterns = [item.strip() for item in (values.text("allowed_urls") or "").split(",")]
    return DownloadRules(
        allowed_urls=tuple(_pattern("allowed_urls", pattern, re.IGNORECASE) for pattern in patterns if pattern),
        limit_bytes=values.integer("download_limit_mib", at_least=1) << 20,
        timeout_s=values.integer("download_timeout", at_least=1),
        use_env_proxy=values.boolean("use_env_proxy"),
    )


def _folder(text: str | None, cwd: Path) -> Path | None:
    return (cwd / text).resolve() if text else None


def _cors(values: Values) -> Cors:
    names = ("cors_allowed_origin", "cors_allowed_methods", "cors_allowed_headers")
    return Cors(*(values.text(name) for name in names))


def _sequence_headers(values: Values) -> SequenceHeaders:
    default = SequenceHeaders()
    return SequenceHeaders(
        *(values.text(f"ts_header_key_sequence_{key}") or getattr(default, key) for key in ("id", "start", "end"))
    )


def _pattern(key: str, text: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    try:
        return re.compile(text, flags)
    except re.error as error:
        raise InvalidConfiguration(f"{key}={text} is not a regular expression: {error}") from error


def _hidden_variables(text: str | None) -> re.Pattern[str] | None:
    return _pattern("blacklist_env_vars", text) if text else None


def _temp_dir(environ: Mapping[str, str]) -> Path:
    temp = environ.get("TEMP")
    if not temp:
        return Path(tempfile.gettempdir())
    if not Path(temp).is_dir():
        raise ConfigError(f"Invalid temp directory: {temp}, please check TEMP environment variable.")
    return Path(temp).resolve()


def _notes(config: ServerConfig) -> list[ConfigWarning]:
    """What is no mistake, but not what everybody expects."""
    notes = []
    load_models, snapshot = config.origins["load_models"], config.origins["model_snapshot"]
    # In one file both stand side by side, as the server and container images write them.
    if config.model_snapshot is not None and config.load_models and _file_of(load_models) != _file_of(snapshot):
        notes.append(
            f"load_models ({load_models}) is ignored: the models of {snapshot} are served; "
            "--no-config-snapshots leaves snapshots alone"
        )
    if any(pattern.fullmatch(url) for url in _ANY_URL for pattern in config.downloads.allowed_urls):
        notes.append(
            f"allowed_urls ({config.origins['allowed_urls']}) lets whoever may register models have any URL or file "
            "fetched: narrow it to the places your archives come from"
        )
    return [ConfigWarning(note, is_mistake=False) for note in notes]


def _file_of(origin: str) -> str:
    return origin.rpartition(":")[0]


def _without_effect(settings: Mapping[str, Setting]) -> list[ConfigWarning]:
    """One line per kind of key that was set in vain."""
    warnings = []
    for effect, advice in ((Effect.LATER, "in this version"), (Effect.NEVER, "and can be left out")):
        idle = [
            key for key in CATALOGUE.values() if key.effect is effect and _differs(settings.get(key.name), key.default)
        ]
        if idle:
            names = ", ".join(f"{key.name} ({settings[key.name].origin})" for key in idle)
            warnings.append(ConfigWarning(f"{effect.value} {advice}: {names}", is_mistake=False))
    return warnings


def _differs(setting: Setting | None, default: str | None) -> bool:
    return setting is not None and setting.text not in ("", default)
