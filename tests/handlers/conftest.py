"""The transformer handler on model folders, without a server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers.testing import HandlerHarness


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a model folder with more files in it: `archive(folder, {"index_to_name.json": {...}})`."""

    def copy(source: Path, files: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> Path:
        target = tmp_path / f"archive-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*without))
        for name, content in (files or {}).items():
            (target / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return target

    return copy


@pytest.fixture
def serve() -> Callable[..., HandlerHarness]:
    """The transformer handler on a model folder: `serve(folder, output="scores")`."""

    def start(
        folder: Path, *, config: dict[str, Any] | None = None, weights: str = "model.safetensors", **handler: Any
    ):
        return HandlerHarness(
            "transformer_handler", folder, {"handler": handler, **(config or {})}, serialized_file=weights
        )

    return start
