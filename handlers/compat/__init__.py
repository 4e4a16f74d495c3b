"""The import names of TorchServe (`ts.torch_handler.base_handler`, …) for handlers and tests that were written for it.

No package called `ts` is installed. `activate()` makes the one beside this file, which only re-exports what lies
elsewhere in `handlers`, importable under that name in this process; a TorchServe that is installed as well stays
where it is. Workers and `handlers.testing.HandlerHarness` call it by themselves; tests of handlers do in conftest.py:

    import handlers.compat
    handlers.compat.activate()
"""

from __future__ import annotations

import contextlib
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

# Not our own version: handlers compare it to learn which of TorchServe's interfaces they have, and this is that one.
TORCHSERVE_VERSION = "0.12.0"

# A folder in which Python finds `ts`, for the path of processes that a handler starts.
FOLDER = Path(__file__).parent


def activate() -> None:
    """Makes `import ts` mean our package, whatever `ts` was before and wherever else one lies. It is light (no torch).

    What comes later on `sys.path` changes nothing: an archive's own `ts.py` loses, as it does in TorchServe, whose
    worker has imported `ts` before it loads an archive.
    """
    ours = import_module("handlers.compat.ts")
    if sys.modules.get("ts") is ours:
        return
    for name in [name for name in sys.modules if name == "ts" or name.startswith("ts.")]:
        del sys.modules[name]
    sys.modules["ts"] = ours


def import_all() -> None:
    """Imports every module of `ts` whose libraries are there, for when `handlers` will soon mean something else."""
    for module in pkgutil.walk_packages(sys.modules["ts"].__path__, "ts.", onerror=lambda name: None):
        # Libraries that are missing or broken concern those who use the module, and no others.
        with contextlib.suppress(Exception):
            import_module(module.name)
