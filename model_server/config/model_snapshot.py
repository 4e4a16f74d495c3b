"""`model_snapshot={...}`: the models of an earlier run, as snapshots and some container images have them."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_server.config.errors import InvalidConfiguration

DEFAULT_TIMEOUT_S = 120
DEFAULT_RUNTIME = "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotModel:
    """One version of a model as it was served.

    Attributes:
        mar_name: its file or folder in a model store.
        url: where else it is found; None: in a model store. TorchServe has nothing like it.
        handler: the one it was registered with, where that was not the archive's. TorchServe has nothing like it.
    """

    name: str
    version: str
    is_default: bool
    mar_name: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay_ms: int
    response_timeout_s: int = DEFAULT_TIMEOUT_S
    startup_timeout_s: int = DEFAULT_TIMEOUT_S
    runtime: str = DEFAULT_RUNTIME
    parallel_level: int = 0
    url: str | None = None
    handler: str | None = None

    @property
    def source(self) -> str:
        """What to register it from."""
        return self.url or self.mar_name

    def to_json(self) -> dict[str, Any]:
        """TorchServe's keys in its order; our own after them, only where they say something."""
        document: dict[str, Any] = {
            "defaultVersion": self.is_default,
            "marName": self.mar_name,
            "minWorkers": self.min_workers,
            "maxWorkers": self.max_workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.max_batch_delay_ms,
            "responseTimeout": self.response_timeout_s,
            "startupTimeout": self.startup_timeout_s,
            "runtimeType": self.runtime,
        }
        own = {"parallelLevel": self.parallel_level, "modelUrl": self.url, "handler": self.handler}
        return document | {key: value for key, value in own.items() if value}


def parse_model_snapshot(text: str) -> tuple[SnapshotModel, ...]:
    """Every version in it; none when `modelCount` says that there are none.

    Raises:
        InvalidConfiguration: it is no JSON, or a version lacks something. Nothing is guessed: a server must not
            silently serve other models than the ones asked for.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidConfiguration(f"model_snapshot is not JSON: {error}") from None
    entry = _Entry("model_snapshot", document)
    if entry.integer("modelCount", 1) <= 0:
        return ()
    return tuple(
        _parse_version(name, version, _Entry(f"model_snapshot: {name} {version}", values))
        for name, versions in entry.objects("models")
        for version, values in _Entry(f"model_snapshot: {name}", versions).items()
    )


def missing_from_stores(models: Sequence[SnapshotModel], stores: Sequence[Path]) -> str | None:
    """TorchServe's text for the first version whose archive is in no store; None when all are there."""
    for model in models:
        if model.url is None and not any((store / Path(model.mar_name).name).exists() for store in stores):
            return f"Model archive file for model :{model.name}, version :{model.version} not found in model store"
    return None


def _parse_version(name: str, version: str, entry: _Entry) -> SnapshotModel:
    return SnapshotModel(
        name=name,
        version=version,
        is_default=entry.boolean("defaultVersion"),
        mar_name=entry.text("marName"),
        min_workers=entry.integer("minWorkers"),
        max_workers=entry.integer("maxWorkers"),
        batch_size=entry.integer("batchSize"),
        max_batch_delay_ms=entry.integer("maxBatchDelay"),
        response_timeout_s=entry.integer("responseTimeout", DEFAULT_TIMEOUT_S),
        startup_timeout_s=entry.integer("startupTimeout", DEFAULT_TIMEOUT_S),
        runtime=entry.text("runtimeType", DEFAULT_RUNTIME),
        parallel_level=entry.integer("parallelLevel", 0),
        url=entry.text("modelUrl", "") or None,
        handler=entry.text("handler", "") or None,
    )


class _Entry:
    """One object of the document; every complaint says where it is."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, dict):
            raise InvalidConfiguration(f"{where}: expected an object in braces, found {reprlib.repr(value)}")
        self._where = where
        self._values: Mapping[str, object] = value

    def items(self) -> list[tuple[str, object]]:
        return list(self._values.items())

    def objects(self, key: str) -> list[tuple[str, object]]:
        return _Entry(f"{self._where}: {key}", self._values.get(key, {})).items()

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._unusable(key, value, "a whole number of 0 or more")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._unusable(key, value, "a text")
        return value

    def boolean(self, key: str) -> bool:
        value = self._get(key, None)
        if not isinstance(value, bool):
            raise self._unusable(key, value, "true or false")
        return value

    def _get(self, key: str, default: object) -> object:
        value = self._values.get(key, default)
        if value is None:
            raise InvalidConfiguration(f"{self._where}: {key} is missing")
        return value

    def _unusable(self, key: str, value: object, expected: str) -> InvalidConfiguration:
        return InvalidConfiguration(f"{self._where} {key}: expected {expected}, found {reprlib.repr(value)}")
