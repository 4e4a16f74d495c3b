"""Where the text of each key comes from: file, command line, environment, in rising precedence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model_server.config.errors import ConfigError, InvalidConfiguration
from model_server.config.keys import CATALOGUE
from model_server.config.properties import Property, decode_properties, parse_properties
from model_server.config.server import CommandLine, ConfigWarning, Setting
from model_server.config.snapshot_files import (
    BOOKKEEPING,
    SNAPSHOT_PYTHON,
    log_location,
    newest_snapshot,
    snapshot_folder,
)
from model_server.config.spelling import did_you_mean
from model_server.config.startup_models import join_words
from model_server.config.values import is_true

IMPLICIT_FILE = "config.properties"
COMMAND_LINE = "command line"

_OIP_ORIGIN = "environment TS_OPEN_INFERENCE_PROTOCOL"
_ENV_PLACEHOLDER = re.compile(r"\$\$([^$]+)\$\$")

Settings = dict[str, Setting]


@dataclass(frozen=True, slots=True)
class Collected:
    """`settings`: every key that is set anywhere, by the source that wins; `unknown`: keys of the file we have not."""

    settings: Settings
    unknown: dict[str, str] = field(default_factory=dict)
    warnings: Sequence[ConfigWarning] = ()


def find_config_file(
    cli: CommandLine, environ: Mapping[str, str], cwd: Path
) -> tuple[Path | None, list[ConfigWarning]]:
    """TS_CONFIG_FILE, else --ts-config, else the newest snapshot, else config.properties in the working directory.

    Raises:
        ConfigError: the file was asked for and is not there.
    """
    asked_for = environ.get("TS_CONFIG_FILE") or cli.ts_config
    if asked_for is None:
        return _find_unasked(cli, environ, cwd)
    path = cwd / asked_for
    if not path.is_file():
        raise ConfigError(f"--ts-config file not found: {asked_for}")
    return path, []


def _find_unasked(cli: CommandLine, environ: Mapping[str, str], cwd: Path) -> tuple[Path | None, list[ConfigWarning]]:
    implicit = cwd / IMPLICIT_FILE if (cwd / IMPLICIT_FILE).is_file() else None
    if cli.no_config_snapshots:
        return implicit, []
    snapshot, warnings = newest_snapshot(snapshot_folder(log_location(environ, cwd)))
    return snapshot or implicit, warnings


def collect_settings(cli: CommandLine, environ: Mapping[str, str], config_file: Path | None) -> Collected:
    """Puts file, command line and environment together, with a warning per key that does not exist."""
    in_file = _from_file(config_file, environ) if config_file else Collected({})
    from_environment = _from_environment(environ, in_file.settings)
    settings = in_file.settings | _from_command_line(cli) | from_environment
    return Collected(settings, in_file.unknown, in_file.warnings)


def _from_file(path: Path, environ: Mapping[str, str]) -> Collected:
    try:
        text = decode_properties(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    entries = _without_notes(parse_properties(text, str(path)))
    unknown = [entry for entry in entries if entry.key not in CATALOGUE]
    return Collected(
        {
            entry.key: Setting(_substitute(entry.value, environ), f"{path}:{entry.line}")
            for entry in entries
            if entry.key in CATALOGUE
        },
        {entry.key: entry.value for entry in unknown},
        [_unknown(path, entry) for entry in unknown],
    )


def _without_notes(entries: Sequence[Property]) -> list[Property]:
    """Without what the server that wrote a snapshot has noted about itself; TorchServe's interpreter lacks our code."""
    is_snapshot = any(entry.key == "version" for entry in entries)
    notes = (*BOOKKEEPING, "python") if is_snapshot else BOOKKEEPING
    return [
        entry._replace(key="python") if entry.key == SNAPSHOT_PYTHON else entry
        for entry in entries
        if entry.key not in notes
    ]


def _unknown(path: Path, entry: Property) -> ConfigWarning:
    return ConfigWarning(f"{path}:{entry.line}: unknown key {entry.key}, ignored{did_you_mean(entry.key, CATALOGUE)}")


def _substitute(value: str, environ: Mapping[str, str]) -> str:
    def variable(match: re.Match[str]) -> str:
        name = match[1]
        if name not in environ:
            raise InvalidConfiguration(f"Invalid Environment Variable {name}")
        return environ[name]

    return _ENV_PLACEHOLDER.sub(variable, value).strip()


def _from_command_line(cli: CommandLine) -> Settings:
    given = {
        "model_store": cli.model_store and str(cli.model_store),
        "workflow_store": cli.workflow_store and str(cli.workflow_store),
        "load_models": join_words(cli.models),
        "cpp_log_config": cli.cpp_log_config and str(cli.cpp_log_config),
        "plugins_path": cli.plugins_path,
        "disable_token_authorization": "true" if cli.disable_token_auth else None,
        "enable_model_api": "true" if cli.enable_model_api else None,
    }
    return {key: Setting(text, COMMAND_LINE) for key, text in given.items() if text}


def _from_environment(environ: Mapping[str, str], file_settings: Settings) -> Settings:
    """The file, and nothing else, decides whether the environment counts; but for one variable of TorchServe's."""
    protocol = environ.get("TS_OPEN_INFERENCE_PROTOCOL")
    always = {"ts_open_inference_protocol": Setting(str(protocol == "oip").lower(), _OIP_ORIGIN)} if protocol else {}
    if not _is_on("enable_envvars_config", file_settings):
        return always
    skipped = () if _is_on("use_env_allowed_urls", file_settings) else ("allowed_urls",)
    return {
        key.name: Setting(environ[key.env].strip(), f"environment {key.env}")
        for key in CATALOGUE.values()
        if key.env is not None and key.env in environ and key.name not in skipped
    } | always


def _is_on(key: str, settings: Settings) -> bool:
    return key in settings and is_true(settings[key].text)
