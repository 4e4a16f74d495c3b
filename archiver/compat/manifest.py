"""The manifest as torch-model-archiver's classes make it."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from typing import Any

from archiver import manifest
from archiver.manifest import ModelEntry

# Manifests name the archiver that made them; this is the one whose names and behaviour are offered here.
TORCH_MODEL_ARCHIVER_VERSION = "0.12.0"


class RuntimeType(StrEnum):
    PYTHON = "python"
    PYTHON3 = "python3"
    LSP = "LSP"


class Manifest:
    """A manifest made now; `str()` of it is the JSON text.

    Args:
        runtime: the value of a RuntimeType.
        model: what the archive holds.
        archiver_version: the version that the manifest names.

    Raises:
        ValueError: an unknown runtime.
    """

    def __init__(
        self, runtime: str, model: ModelEntry, archiver_version: str | None = TORCH_MODEL_ARCHIVER_VERSION
    ) -> None:
        self.runtime = RuntimeType(runtime)
        self.model = model
        self.archiver_version = archiver_version
        self.creation_time = time.strftime("%d/%m/%Y %H:%M:%S")

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(str(self))
        return document

    def __str__(self) -> str:
        made = manifest.Manifest(self.model, self.runtime.value, self.creation_time, self.archiver_version)
        return made.to_json().decode()
