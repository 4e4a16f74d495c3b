"""MAR-INF/MANIFEST.json: what an archive says about itself.

Written as TorchServe's archiver 0.12 writes it; read tolerantly, because archives of many versions and tools exist:
unknown and old keys are kept in `Manifest.raw` and otherwise ignored.
"""

import importlib.metadata
import json
import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archiver.entries import path_problem, quoted
from archiver.errors import InvalidManifest
from archiver.handler_names import RUNTIMES, entry_point_problem

MANIFEST_NAME = "MAR-INF/MANIFEST.json"
MAX_MANIFEST_BYTES = 1 << 20
DEFAULT_VERSION = "1.0"

# Attribute -> key, in the order in which they are written.
_MODEL_KEYS = {
    "model_name": "modelName",
    "serialized_file": "serializedFile",
    "handler": "handler",
    "model_file": "modelFile",
    "model_version": "modelVersion",
    "extensions": "extensions",
    "requirements_file": "requirementsFile",
    "config_file": "configFile",
    "envelope": "envelope",
}
_PATH_KEYS = ("serializedFile", "modelFile", "requirementsFile", "configFile")


@dataclass(frozen=True)
class ModelEntry:
    """The manifest's `model` object. File names are relative to the archive's root and stay inside it."""

    model_name: str
    serialized_file: str | None = None
    handler: str | None = None
    model_file: str | None = None
    model_version: str = DEFAULT_VERSION
    extensions: Any = None
    requirements_file: str | None = None
    config_file: str | None = None
    envelope: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; `raw` is the JSON object as it was read, with every key."""

    model: ModelEntry
    runtime: str = "python"
    created_on: str | None = None
    archiver_version: str | None = None
    raw: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Reads and checks a manifest.

        Raises:
            InvalidManifest: with TorchServe's text first, then the key, its value and what to do.
        """
        raw = _parse(data)
        model = _model_object(raw)
        return cls(
            model=_model_entry(model),
            runtime=_runtime(raw),
            created_on=_text(raw, "createdOn"),
            archiver_version=_text(raw, "archiverVersion"),
            raw=raw,
        )

    def to_json(self) -> bytes:
        """The manifest as it is packed: fixed key order, two spaces of indent, absent keys left out."""
        model = {key: getattr(self.model, attribute) for attribute, key in _MODEL_KEYS.items()}
        document = {
            "createdOn": self.created_on,
            "runtime": self.runtime,
            "model": {key: value for key, value in model.items() if value not in (None, "")},
            "archiverVersion": self.archiver_version,
        }
        return json.dumps(document, indent=2).encode()


def load(model_dir: Path) -> Manifest | None:
    """The manifest of an unpacked archive, or None when the folder has none.

    Raises:
        InvalidManifest: the manifest cannot be used.
    """
    path = model_dir / MANIFEST_NAME
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return Manifest.from_json(file.read(MAX_MANIFEST_BYTES + 1))


def archiver_version() -> str:
    """The version written into manifests: that of the installed distribution."""
    try:
        return importlib.metadata.version("modelserver")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise _unparsable(f"it is larger than {MAX_MANIFEST_BYTES:,} bytes")
    try:
        raw = json.loads(data, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise _unparsable(str(error)) from error
    if not isinstance(raw, dict):
        raise _unparsable(f"it holds {_type_name(raw)} where a JSON object belongs")
    return raw


def _unparsable(reason: str) -> InvalidManifest:
    return InvalidManifest(f"Failed to parse signature.json. {MANIFEST_NAME} cannot be read: {reason}.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key!r} occurs twice")
        unique[key] = value
    return unique


def _model_object(raw: dict[str, Any]) -> dict[str, Any]:
    model = raw.get("model")
    if model is None:
        raise InvalidManifest(f'Missing Model entry in manifest file. {MANIFEST_NAME} needs an object under "model".')
    if not isinstance(model, dict):
        raise _wrong_type("model", model, "an object")
    if not _text(model, "modelName", "model."):
        raise InvalidManifest(f'Model name is not defined. {MANIFEST_NAME} needs "modelName" in "model".')
    return model


def _model_entry(model: dict[str, Any]) -> ModelEntry:
    for key in _PATH_KEYS:
        _check_path(key, _text(model, key, "model."))
    _check_handler(_text(model, "handler", "model."))
    texts = {attribute: _text(model, key, "model.") for attribute, key in _MODEL_KEYS.items() if key != "extensions"}
    given = {attribute: text for attribute, text in texts.items() if text}
    return ModelEntry(**given, extensions=model.get("extensions"))


def _runtime(raw: dict[str, Any]) -> str:
    runtime = raw.get("runtime")
    if runtime not in RUNTIMES:
        raise InvalidManifest(
            f'Runtime is not defined or invalid. {MANIFEST_NAME} has "runtime": {reprlib.repr(runtime)}; '
            f"use one of {', '.join(RUNTIMES)}."
        )
    return str(runtime)


def _text(source: dict[str, Any], key: str, prefix: str = "") -> str | None:
    value = source.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong_type(prefix + key, value, "a string")
    return value


def _wrong_type(key: str, value: object, expected: str) -> InvalidManifest:
    return InvalidManifest(
        f"{MANIFEST_NAME}: {key} is {reprlib.repr(value)}, {_type_name(value)}; it must be {expected}."
    )


def _check_path(key: str, path: str | None) -> None:
    if path and (problem := path_problem(path)):
        raise InvalidManifest(
            f"{MANIFEST_NAME}: model.{key} is {quoted(path)}: the path {problem}. Name a file of the archive."
        )


def _check_handler(handler: str | None) -> None:
    if not handler:
        return
    _check_path("handler", handler.partition(":")[0] or handler)
    if problem := entry_point_problem(handler):
        raise InvalidManifest(
            f"{MANIFEST_NAME}: model.handler is {quoted(handler)}: it {problem}. "
            'Use "file.py", "file:function" or the name of a built-in handler.'
        )


def _type_name(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
