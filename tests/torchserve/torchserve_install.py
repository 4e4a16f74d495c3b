"""TorchServe 0.12 from its package, in a virtual environment of its own that sees the libraries of this one."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# nvgpu is imported by TorchServe where a GPU is; the other requirements come from the outer environment.
PACKAGES = ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "enum-compat", "nvgpu")
OLDEST_JAVA = 17
INSTALL_DEADLINE_S = 90

# Names the folder of the environment: one made before is used as it is, a missing one is made there.
FOLDER_VARIABLE = "MODELSERVER_TORCHSERVE_VENV"


class Unavailable(Exception):
    """TorchServe cannot run here; the text says why."""


def torchserve_python() -> Path:
    """The interpreter that TorchServe is installed for. Installed at first use, found again afterwards.

    Raises:
        Unavailable: no suitable Java, or pip cannot install the packages.
    """
    check_java()
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            _install(folder)
    return folder / "bin" / "python"


def check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    if shutil.which(java) is None:
        raise Unavailable("TorchServe needs Java, and there is none")
    text = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', text)
    if found is None or int(found[1]) < OLDEST_JAVA:
        raise Unavailable(f"TorchServe needs Java {OLDEST_JAVA} or newer, not {text.strip().splitlines()[:1]}")


def _folder() -> Path:
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given).absolute()
    # An environment is bound to the one that it shares libraries with.
    outer = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "modelserver-tests" / f"torchserve-0.12.0-{sys.version_info.major}.{sys.version_info.minor}-{outer}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path) -> None:
    venv.create(folder, clear=True, with_pip=True)
    python = str(folder / "bin" / "python")
    (inner,) = folder.glob("lib/python*/site-packages")
    (inner / "outer_environment.pth").write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", *PACKAGES]
    try:
        done = subprocess.run(pip, capture_output=True, text=True, timeout=INSTALL_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip took more than {INSTALL_DEADLINE_S} s to install {PACKAGES[0]}") from None
    if done.returncode != 0:
        raise Unavailable(f"pip cannot install {PACKAGES[0]}: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "complete").touch()
