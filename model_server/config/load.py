"""Build the `ServerConfig`: typed values out of the texts that `sources` collected."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from model_server.config.errors import ConfigError, InvalidConfiguration
from model_server.config.keys import CATALOGUE, Effect
from model_server.config.overrides import parse_models
from model_server.config.server import CommandLine, ConfigWarning, Cors, SequenceHeaders, ServerConfig, Setting
from model_server.config.sources import collect_settings, find_config_file
from model_server.config.startup_models import parse_startup_models
from model_server.config.values import Values

_LONGEST_TOKEN_MIN = 1e9  # 1,900 years: what a time stamp can hold


def load_config(cli: CommandLine, environ: Mapping[str, str], cwd: Path) -> tuple[ServerConfig, list[ConfigWarning]]:
    """Read everything the operator has set.

    Precedence: TS_* environment (where the file allows it) > command line > file > default. A key or value that makes
    no sense is a warning and the default holds, so that a file made for TorchServe always starts.

    Raises:
        ConfigError: a file or folder that was named does not exist, an address or pattern is not usable, or a
            listener would be reachable from other machines.
    """
    config_file = find_config_file(cli, environ, cwd)
    settings, warnings = collect_settings(cli, environ, config_file)
    values = Values(settings)
    _check_named_files(cli, cwd)
    load_models, item_warnings = parse_startup_models(values.text("load_models") or "")
    models, entry_warnings = parse_models(values.text("models") or "{}")
    config = ServerConfig(
        inference_address=values.address("inference_address", 8080),
        management_address=values.address("management_address", 8081),
        max_request_size_bytes=values.integer("max_request_size", at_least=0),
        max_response_size_bytes=values.integer("max_response_size", at_least=1),
        cors=_cors(values),
        enable_model_api=values.boolean("enable_model_api"),
        disable_token_authorization=values.boolean("disable_token_authorization"),
        token_expiration_min=values.number("token_expiration_min", above=0, at_most=_LONGEST_TOKEN_MIN),
        model_store=_model_store(values.text("model_store"), cwd),
        load_models=load_models,
        models=models,
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
        blacklist_env_vars=_pattern(values.text("blacklist_env_vars")),
        sequence_headers=_sequence_headers(values),
        ipex_enable=values.boolean("ipex_enable"),
        ipex_gpu_enable=values.boolean("ipex_gpu_enable"),
        install_py_dep_per_model=values.boolean("install_py_dep_per_model"),
        requirements_timeout_s=values.integer("requirements_timeout", at_least=1),
        requirements_cache=_folder(values.text("requirements_cache"), cwd),
        python=values.text("python") or sys.executable,
        log_config=cwd / cli.log_config if cli.log_config else None,
        log_location=cwd / environ.get("LOG_LOCATION", "logs"),
        temp_dir=_temp_dir(environ),
        config_file=config_file,
        settings=values.effective,
    )
    return config, [*warnings, *values.warnings, *item_warnings, *entry_warnings, *_without_effect(settings)]


def _check_named_files(cli: CommandLine, cwd: Path) -> None:
    for flag, path in (("--log-config", cli.log_config), ("--cpp-log-config", cli.cpp_log_config)):
        if path and not (cwd / path).is_file():
            raise ConfigError(f"{flag} file not found: {path}")
    if cli.workflow_store and not (cwd / cli.workflow_store).is_dir():
        raise ConfigError(f"--workflow-store directory not found: {cli.workflow_store}")


def _model_store(text: str | None, cwd: Path) -> Path:
    if text is None:
        raise ConfigError("Missing mandatory parameter --model-store")
    if not (cwd / text).is_dir():
        raise ConfigError(f"--model-store directory not found: {text}")
    return (cwd / text).resolve()


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


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise InvalidConfiguration(f"blacklist_env_vars={text} is not a regular expression: {error}") from error


def _temp_dir(environ: Mapping[str, str]) -> Path:
    temp = environ.get("TEMP")
    if not temp:
        return Path(tempfile.gettempdir())
    if not Path(temp).is_dir():
        raise ConfigError(f"Invalid temp directory: {temp}, please check TEMP environment variable.")
    return Path(temp).resolve()


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
