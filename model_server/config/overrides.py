"""`models={"name": {"version": {...}}}` of config.properties."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping

from model_server.config.server import ConfigWarning, ModelOverrides, ModelsTable
from model_server.config.spelling import did_you_mean

_INTEGERS = {
    "minWorkers": "min_workers",
    "maxWorkers": "max_workers",
    "batchSize": "batch_size",
    "maxBatchDelay": "max_batch_delay_ms",
    "responseTimeout": "response_timeout_s",
    "startupTimeout": "startup_timeout_s",
}
_RUNTIMES = ("python", "python3", "LSP")
# Known to TorchServe, which reads them in snapshots only.
_SNAPSHOT_ONLY = ("defaultVersion", "marName", "parallelLevel")
_KNOWN = (*_INTEGERS, "runtimeType", *_SNAPSHOT_ONLY)


def parse_models(text: str) -> tuple[ModelsTable, list[ConfigWarning]]:
    """Every usable value of the table; what is not usable is left out, with a warning that says where it is."""
    warnings: list[ConfigWarning] = []
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, [ConfigWarning(f"models: not JSON ({error}), ignored")]
    table = {
        name: {
            version: _parse_entry(f"models: {name} {version}", entry, warnings)
            for version, entry in _object(f"models: {name}", versions, warnings).items()
        }
        for name, versions in _object("models", document, warnings).items()
    }
    return table, warnings


def _object(where: str, value: object, warnings: list[ConfigWarning]) -> Mapping[str, object]:
    if isinstance(value, dict):
        return value
    warnings.append(ConfigWarning(f"{where}: expected an object in braces, found {reprlib.repr(value)}, ignored"))
    return {}


def _parse_entry(where: str, value: object, warnings: list[ConfigWarning]) -> ModelOverrides:
    entry = _object(where, value, warnings)
    for key in entry:
        if key not in _KNOWN:
            warnings.append(ConfigWarning(f"{where}: unknown key {key}, ignored{did_you_mean(key, _KNOWN)}"))
    integers = {name: _positive(f"{where} {key}", entry.get(key), warnings) for key, name in _INTEGERS.items()}
    return ModelOverrides(**integers, runtime=_runtime(where, entry.get("runtimeType"), warnings))


def _positive(where: str, value: object, warnings: list[ConfigWarning]) -> int | None:
    """TorchServe takes the default for 0 and less, and numbers in quotes as numbers."""
    if value is None:
        return None
    number = _integer(value)
    if number is None:
        warnings.append(ConfigWarning(f"{where}: {reprlib.repr(value)} is not a whole number, ignored"))
        return None
    return number if number > 0 else None


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def _runtime(where: str, value: object, warnings: list[ConfigWarning]) -> str | None:
    if value is None or (isinstance(value, str) and value in _RUNTIMES):
        return value
    warnings.append(
        ConfigWarning(f"{where} runtimeType: {reprlib.repr(value)} is none of {', '.join(_RUNTIMES)}, ignored")
    )
    return None
