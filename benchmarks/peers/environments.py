"""A virtual environment for each peer, made at first use and found again afterwards.

It sees the libraries of the environment the benchmarks run in behind its own, so that every server computes with the
same torch and transformers, and none of them is installed twice.
"""

import fcntl
import hashlib
import os
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import BenchmarkError

# Where the environments lie; in the user's cache folder when it is not set.
FOLDER_VARIABLE = "MODELSERVER_BENCHMARK_ENVIRONMENTS"

INSTALL_DEADLINE_S = 900.0
_REMARK_CHARACTERS = 1000


def peer_python(name: str, packages: Sequence[str], deadline_s: float = INSTALL_DEADLINE_S) -> Path:
    """The interpreter that the packages are installed for.

    Raises:
        BenchmarkError: pip cannot install them within `deadline_s`, with its last words.
    """
    folder = _root() / f"{name}-{_fingerprint(packages)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            _install(folder, packages, deadline_s)
    return folder / "bin" / "python"


def _root() -> Path:
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "modelserver-benchmarks"


def _fingerprint(packages: Sequence[str]) -> str:
    """An environment is bound to its packages, and to the environment that it shares libraries with."""
    return hashlib.sha256("\n".join([sys.prefix, *packages]).encode()).hexdigest()[:8]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path, packages: Sequence[str], deadline_s: float) -> None:
    print(f"Installing {', '.join(packages)} into {folder}", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    (inner,) = folder.glob("lib/python*/site-packages")
    (inner / "outer_environment.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run([*pip, *packages], capture_output=True, text=True, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"pip took more than {deadline_s:g} s to install {packages[0]}") from None
    if done.returncode != 0:
        shutil.rmtree(folder)
        raise BenchmarkError(f"pip cannot install {packages[0]}: {done.stderr.strip()[-_REMARK_CHARACTERS:]}")
    (folder / "complete").touch()
