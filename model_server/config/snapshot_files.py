"""Snapshot files: `$LOG_LOCATION/config/<yyyyMMddHHmmssSSS>-<startup|snapshot|shutdown>.cfg`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from model_server.config.errors import ConfigError, InvalidConfiguration
from model_server.config.model_snapshot import parse_model_snapshot
from model_server.config.properties import decode_properties, parse_properties
from model_server.config.server import ConfigWarning

# What snapshots hold besides keys of config.properties: notes of the server that wrote them.
BOOKKEEPING = ("version", "tsConfigFile")
# The operator's `python`, under a name that TorchServe leaves alone: it writes its own interpreter over the other one.
SNAPSHOT_PYTHON = "modelserver_python"

_NAME = re.compile(r"(?P<stamp>\d{17})-.+\.cfg")


def log_location(environ: Mapping[str, str], cwd: Path) -> Path:
    return cwd / (environ.get("LOG_LOCATION") or "logs")


def snapshot_folder(log_location: Path) -> Path:
    return log_location / "config"


def snapshot_files(folder: Path) -> list[Path]:
    """All there are, oldest first. Raises OSError when the folder cannot be read."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def newest_snapshot(folder: Path) -> tuple[Path | None, list[ConfigWarning]]:
    """The newest file that can be used, and a warning for each newer one that cannot."""
    warnings: list[ConfigWarning] = []
    try:
        files = snapshot_files(folder)
    except OSError as error:
        return None, [ConfigWarning(f"{folder} cannot be read, no snapshot is restored: {error.strerror}")]
    for path in reversed(files):
        try:
            _check(path)
        except (OSError, ConfigError) as error:
            warnings.append(ConfigWarning(f"{path} is passed over, an older snapshot is looked for: {error}"))
        else:
            return path, warnings
    return None, warnings


def _check(path: Path) -> None:
    entries = parse_properties(decode_properties(path.read_bytes()), str(path))
    models = next((entry.value for entry in entries if entry.key == "model_snapshot"), None)
    if models is None:
        raise InvalidConfiguration("it holds no model_snapshot")
    parse_model_snapshot(models)
