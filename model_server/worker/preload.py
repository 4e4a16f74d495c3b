"""What a worker is going to import, told from outside, so that the template can import it once for all of them.

Only libraries of the list below and our own handlers, never a module of an archive: what an archive's files say chooses
among them.
"""

from __future__ import annotations

import importlib
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from handlers.builtin import BUILTIN_HANDLERS, REGISTERED_HANDLERS

# Import name in a handler's file -> what is worth having in memory. They start no threads and touch no device when they
# are imported.
_LIBRARIES: dict[str, tuple[str, ...]] = {
    "numpy": ("numpy",),
    "torch": ("torch",),
    "ts": ("torch", "handlers.base"),
    "handlers": ("torch", "handlers.base"),
    "safetensors": ("safetensors.torch",),
    "tokenizers": ("tokenizers",),
    "transformers": ("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"),
}
# What is in an archive can be read where it is.
Folder: TypeAlias = Path | zipfile.Path
_STATEMENT = re.compile(rb"^[ \t]*(?:from[ \t]+(\w+)|import[ \t]+([^#;\n]+))", re.MULTILINE)
_NAME = re.compile(rb"(?:^|,)[ \t]*(\w+)")
_MODEL_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Of a folder with more or longer files the rest is not looked at.
_MOST_FILES = 64
_MOST_BYTES = 1 << 18
_MOST_CONFIG_BYTES = 1 << 20


def modules_of_archive(archive: Path) -> tuple[str, ...]:
    """What `modules_for` says of one that is not unpacked yet; nothing where that cannot be told.

    Whatever is wrong with it will be said when it is unpacked.
    """
    with suppress(Exception):
        if not archive.is_dir() and not archive.is_file():  # opening a pipe would wait for its other end
            return ()
        folder: Folder = archive if archive.is_dir() else zipfile.Path(archive)
        manifest = json.loads(_start_of(folder / "MAR-INF" / "MANIFEST.json", _MOST_CONFIG_BYTES))
        return modules_for(manifest["model"]["handler"], folder)
    return ()


def modules_for(handler: str, model_dir: Folder) -> tuple[str, ...]:
    """Modules that the worker of this archive is going to need, in the order in which to import them."""
    built_in = BUILTIN_HANDLERS.get(handler) or REGISTERED_HANDLERS.get(handler)
    wanted = [built_in.partition(":")[0]] if built_in else []
    if handler == "transformer_handler":
        wanted += _LIBRARIES["transformers"]
    for name in _imported_names(model_dir):
        wanted += _LIBRARIES.get(name, ())
    if any(name.startswith("transformers") for name in wanted):
        wanted += _modules_of_architecture(model_dir)
    return tuple(dict.fromkeys(wanted))


def import_quietly(name: str) -> bool:
    """False when it cannot be imported: the worker that needs it will say so."""
    with suppress(Exception):
        importlib.import_module(name)
        return True
    return False


def _imported_names(model_dir: Folder) -> Iterator[str]:
    with suppress(OSError):
        files = [entry for entry in model_dir.iterdir() if entry.name.endswith(".py")]
        for file in sorted(files, key=lambda file: file.name)[:_MOST_FILES]:
            for package, listed in _STATEMENT.findall(_start_of(file, _MOST_BYTES)):
                for name in [package] if package else _NAME.findall(listed):
                    yield name.decode(errors="replace")


def _modules_of_architecture(model_dir: Folder) -> list[str]:
    with suppress(OSError, ValueError):
        config = json.loads(_start_of(model_dir / "config.json", _MOST_CONFIG_BYTES))
        model_type = config.get("model_type") if isinstance(config, dict) else None
        if isinstance(model_type, str) and _MODEL_TYPE.fullmatch(model_type):
            return [f"transformers.models.{model_type}.modeling_{model_type}"]
    return []


def _start_of(file: Folder, size_bytes: int) -> bytes:
    """Nothing where it is no plain file: opening a pipe would wait for its other end."""
    if not file.is_file():
        return b""
    with file.open("rb") as opened:
        return opened.read(size_bytes)
