"""The import names of torch-model-archiver (`model_archiver.…`) for scripts that were written for it.

No package called `model_archiver` is installed. `activate()` makes the one beside this file importable under that name
in this process; a torch-model-archiver that is installed as well stays where it is:

    import archiver.compat
    archiver.compat.activate()
    from model_archiver import ModelArchiver, ModelArchiverConfig
"""

from __future__ import annotations

import sys
from importlib import import_module


def activate() -> None:
    """Makes `import model_archiver` mean our package, whatever it was before and wherever else one lies."""
    ours = import_module("archiver.compat.model_archiver")
    if sys.modules.get("model_archiver") is ours:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_archiver"]:
        del sys.modules[name]
    sys.modules["model_archiver"] = ours
