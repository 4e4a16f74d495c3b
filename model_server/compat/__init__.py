"""The import names of TorchServe that concern a server: `ts.launcher` and `ts.model_server`, besides those of handlers.

For scripts that start and stop TorchServe from Python:

    import model_server.compat
    model_server.compat.activate()
    from ts.launcher import start, stop, register_model
"""

from __future__ import annotations

import sys
from pathlib import Path

import handlers.compat

_FOLDER = str(Path(__file__).parent / "ts")


def activate() -> None:
    """Makes `import ts` mean our package, with the modules beside this file in it."""
    handlers.compat.activate()
    folders = sys.modules["ts"].__path__
    if _FOLDER not in folders:
        folders.append(_FOLDER)
