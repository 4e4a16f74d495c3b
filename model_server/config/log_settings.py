"""What the operator decides about logs: LOG_LOCATION, METRICS_LOCATION, log_format, log_level and --log-config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from model_server.config.server import ConfigWarning
from model_server.config.snapshot_files import log_location
from model_server.config.values import Values
from model_server.logs.levels import parse_levels
from model_server.logs.settings import FormName, LogSettings

_FORMS: dict[str, FormName] = {"text": "text", "json": "json"}
_LARGEST_FILE_BYTES = 1 << 20


def read_log_settings(
    values: Values, environ: Mapping[str, str], cwd: Path, file: Path | None
) -> tuple[LogSettings, list[ConfigWarning]]:
    """`file` is that of `--log-config`. What cannot be used is a warning: a log never stops a start."""
    document, warnings = _document(file) if file else (None, [])
    settings = LogSettings(
        folder=log_location(environ, cwd),
        metrics_folder=cwd / (environ.get("METRICS_LOCATION") or "logs"),
        form=values.parsed("log_format", _form),
        levels=values.parsed("log_level", parse_levels),
        document=document,
    )
    return settings, warnings


def _form(text: str) -> FormName:
    if text.lower() not in _FORMS:
        raise ValueError("is neither text nor json")
    return _FORMS[text.lower()]


def _document(file: Path) -> tuple[Mapping[str, Any] | None, list[ConfigWarning]]:
    try:
        with file.open("rb") as opened:
            text = opened.read(_LARGEST_FILE_BYTES).decode()
        if _is_log4j2(file, text):
            advice = "give a Python logging configuration (dictConfig) as YAML or JSON, or set log_level and log_format"
            return None, [ConfigWarning(f"--log-config {file}: log4j2 files are not read; {advice}", is_mistake=False)]
        document = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        return None, [
            ConfigWarning(f"--log-config {file} cannot be read and is not used: {' '.join(str(error).split())}")
        ]
    if not isinstance(document, dict):
        return None, [ConfigWarning(f"--log-config {file} is not used: it holds no YAML or JSON mapping")]
    return document, []


def _is_log4j2(file: Path, text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n").startswith("<") or file.suffix in (".xml", ".properties")
