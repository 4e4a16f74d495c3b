"""Finds the function that answers requests in an unpacked archive.

A handler is `module[.py][:function]` or the name of a built-in handler. A file of the archive comes first; it is loaded
by its path, so that no installed module of the same name can take its place. Nothing else is importable by name: an
archive that says `os:system` is refused. The server's own default_service_handler may be a file anywhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from handlers import compat, envelopes
from handlers.builtin import BUILTIN_HANDLERS, REGISTERED_HANDLERS
from handlers.context import Context
from handlers.errors import ModelLoadError
from handlers.metrics import MetricsRecorder
from handlers.modules import classes_defined_in
from model_server.wire.messages import Capabilities, Load

Handle = Callable[[list[Any], Context], Any]

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """How to initialise a model and how to ask it.

    Attributes:
        initialize: called once with the context.
        handle: called with the rows of a batch and the context.
        owner: the handler object, or the function itself; declares what the handler can do.
    """

    initialize: Callable[[Context], Any]
    handle: Handle
    owner: object

    @property
    def capabilities(self) -> Capabilities:
        """Read after `initialize`, which may decide them."""
        return Capabilities(
            length_batching=bool(getattr(self.owner, "length_batching", False)),
            batch_explanations=bool(getattr(self.owner, "batch_explanations", False)),
        )


def build_context(load: Load, metrics: MetricsRecorder) -> Context:
    model_dir = Path(load.model_dir)
    manifest = _read_manifest(model_dir)
    return Context(
        load.model_name,
        model_dir,
        manifest,
        load.batch_size,
        load.gpu_id,
        compat.TORCHSERVE_VERSION,  # handlers compare it, as they do `ts.__version__`
        load.limit_max_image_pixels,
        metrics,
        _read_model_config(model_dir, manifest),
    )


def _read_manifest(model_dir: Path) -> dict[str, Any] | None:
    path = model_dir / "MAR-INF" / "MANIFEST.json"
    if not path.is_file():
        return None
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    return manifest


def _read_model_config(model_dir: Path, manifest: dict[str, Any] | None) -> dict[str, Any]:
    name = (manifest or {}).get("model", {}).get("configFile")
    if not name:
        return {}
    document = yaml.load((model_dir / name).read_bytes(), Loader=_SafeLoader)  # noqa: S506 (a safe loader)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ModelLoadError(f"{name} must hold a mapping of keys to values, it holds a {type(document).__name__}.")
    return document


def load_entry_point(handler: str, envelope: str | None, context: Context) -> EntryPoint:
    """Imports the handler with the model directory as current directory and first on `sys.path`.

    Raises `ModelLoadError` when the handler cannot be found, and whatever its code raises when it is imported.
    """
    compat.activate()
    model_dir = Path(context.system_properties["model_dir"])
    os.chdir(model_dir)
    _extend_path(model_dir)
    entry = _resolve(handler, model_dir)
    if envelope:
        return EntryPoint(entry.initialize, envelopes.wrap(envelope, entry.handle), entry.owner)
    return entry


def _extend_path(model_dir: Path) -> None:
    """The archive comes first. `ts` comes last: this process has it, those that the handler starts look for it."""
    sys.path.insert(0, str(model_dir))
    sys.path.append(str(compat.FOLDER))
    folders = [str(model_dir), os.environ.get("PYTHONPATH"), str(compat.FOLDER)]
    os.environ["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)


def _resolve(handler: str, model_dir: Path) -> EntryPoint:
    module_part, _, function_name = handler.partition(":")
    file = model_dir / (module_part.removesuffix(".py") + ".py")
    if file.is_file() and _is_inside(file, model_dir):
        return _entry_point_in(_load_file(file), function_name or "handle")
    if file.is_file() and _is_operators(handler):
        sys.path.append(str(file.parent))  # its own modules may lie beside it
        return _entry_point_in(_load_file(file), function_name or "handle")
    built_in = BUILTIN_HANDLERS.get(handler) or REGISTERED_HANDLERS.get(handler)
    if built_in:
        module_name, _, class_name = built_in.partition(":")
        return _from_class(getattr(importlib.import_module(module_name), class_name))
    names = ", ".join(sorted(BUILTIN_HANDLERS))
    raise ModelLoadError(f"Handler {handler!r} is neither a file {file.name} in the archive nor one of: {names}.")


def _is_inside(file: Path, folder: Path) -> bool:
    """By its name: an operator's folder may hold links to files elsewhere, but no name may lead out of it."""
    return Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder))


def _is_operators(handler: str) -> bool:
    """Equal to what the operator has set, whoever has named it."""
    return handler == os.environ.get("TS_DEFAULT_SERVICE_HANDLER")


def _load_file(file: Path) -> ModuleType:
    if file.stem == "handlers" or any((file.parent / name).exists() for name in ("handlers.py", "handlers")):
        _give_up_name("handlers")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ModelLoadError(f"{file.name} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def _give_up_name(package: str) -> None:
    """Lets the archive's module of that name be the one its own code imports; ours is loaded and needs it no more."""
    compat.import_all()  # later, what they re-export could not be found
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def _entry_point_in(module: ModuleType, function_name: str) -> EntryPoint:
    function = getattr(module, function_name, None)
    if function is not None:
        return EntryPoint(lambda context: function(None, context), function, function)
    return _from_class(_handler_class(module))


def _handler_class(module: ModuleType) -> type:
    """The one class that the module defines; among several, the one that derives from BaseHandler."""
    classes = classes_defined_in(module)
    derived = [cls for cls in classes if any(base.__name__ == "BaseHandler" for base in cls.__mro__[1:])]
    for candidates in (classes, derived):
        if len(candidates) == 1:
            return candidates[0]
    names = [cls.__name__ for cls in classes]
    raise ModelLoadError(
        f"Expected only one class in custom service code or a function entry point {names}. "
        "Name the entry point in the handler (file:function), or derive exactly one class from BaseHandler."
    )


def _from_class(cls: type) -> EntryPoint:
    instance: Any = cls()
    for method in ("handle", "initialize"):
        if not hasattr(instance, method):
            raise ModelLoadError(f"Expect {method} method in class {cls.__name__}.")
    return EntryPoint(instance.initialize, lambda data, context: instance.handle(data, context), instance)
