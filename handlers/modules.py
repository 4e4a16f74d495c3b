"""Python files out of an archive, imported by path so that they win over installed modules of the same name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

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


def classes_defined_in(module: ModuleType) -> list[type]:
    """Classes written in the module itself; imported and nested ones do not count."""
    return [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]


def _restore(name: str, before: ModuleType | None) -> None:
    if before is None:
        del sys.modules[name]
    else:
        sys.modules[name] = before
