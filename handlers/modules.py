"""Modules and what they define. Files of an archive are imported by path: they win over installed modules."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from handlers.errors import ModelLoadError


def load_module(path: Path) -> ModuleType:
    """Imports a file under its own base name, which pickled classes and neighbouring files refer to.

    Raises:
        ModelLoadError: the file is not there. Errors of the file itself pass through.
    """
    name = path.name.split(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ModelLoadError(f"{path.name} is not a Python file of the archive")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        _restore(name, before)
        raise
    return module


def classes_defined_in(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Classes written in the module itself, by name; imported and nested ones do not count.

    Args:
        parent_class: count only classes that derive from it.
    """
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    return [cls for cls in classes if parent_class is None or issubclass(cls, parent_class)]


def import_class(class_name: str, module_prefix: str | None = None) -> Any:
    """The class of that name: `package.module.Class`, or `Class` and `module.Class` below `module_prefix`.

    Raises:
        ImportError: the name is incomplete, or there is no such module or class.
    """
    module_name, _, name = (class_name or "").rpartition(".")
    if not name:
        raise ImportError(f"class name is not defined: {class_name!r} should be package.module.Class")
    path = ".".join(part for part in (module_prefix, module_name) if part)
    if not path:
        raise ImportError(f"module name is not defined. {class_name!r} should be package.module.{class_name}")
    found = getattr(importlib.import_module(path), name, None)
    if found is None:
        raise ImportError(f"class:{name} not found in module:{path}.")
    return found


def _restore(name: str, before: ModuleType | None) -> None:
    if before is None:
        del sys.modules[name]
    else:
        sys.modules[name] = before
