"""TorchServe 0.12 from its package, in the virtual environment that the benchmarks measure it in, too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.peers.catalog import TORCHSERVE_PACKAGES
from benchmarks.peers.environments import peer_python

OLDEST_JAVA = 17
INSTALL_DEADLINE_S = 90


class Unavailable(Exception):
    """TorchServe cannot run here; the text says why."""


def torchserve_python() -> Path:
    """The interpreter that TorchServe is installed for. Installed at first use, found again afterwards.

    Raises:
        Unavailable: no suitable Java, or pip cannot install the packages.
    """
    check_java()
    try:
        return peer_python("torchserve", TORCHSERVE_PACKAGES, INSTALL_DEADLINE_S)
    except BenchmarkError as error:
        raise Unavailable(str(error)) from error


def check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    if shutil.which(java) is None:
        raise Unavailable("TorchServe needs Java, and there is none")
    text = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', text)
    if found is None or int(found[1]) < OLDEST_JAVA:
        raise Unavailable(f"TorchServe needs Java {OLDEST_JAVA} or newer, not {text.strip().splitlines()[:1]}")
