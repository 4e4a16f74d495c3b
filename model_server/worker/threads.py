"""Numbers of threads, for libraries that were loaded before it was known how many there may be."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

# OpenBLAS, under the names that its builds for numpy and scipy give it.
_OPENBLAS_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def apply_environment() -> None:
    """Gives torch and numpy, where they are loaded, the numbers that they read from the environment when they load."""
    if (threads := _number("OMP_NUM_THREADS")) and (torch := sys.modules.get("torch")):
        torch.set_num_threads(threads)
    if threads := _number("OPENBLAS_NUM_THREADS"):
        for path in _loaded("openblas"):
            _set_openblas(path, threads)


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else 0


def _loaded(part: str) -> set[str]:
    """Files of shared libraries in this process whose name has this part."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
        paths = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}
        return {path for path in paths if part in Path(path).name}
    return set()


def _set_openblas(path: str, threads: int) -> None:
    with suppress(OSError):
        library = ctypes.CDLL(path)
        for name in _OPENBLAS_SETTERS:
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_int(threads))
                return
