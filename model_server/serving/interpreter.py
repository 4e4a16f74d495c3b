"""What the server's Python has: the ground that environments of models are built on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model_server.serving.programs import run_program

# These hold compiled code that has to fit together, and weights are exchanged between them: one version per server.
HELD_PACKAGES = ("torch", "numpy", "safetensors")

# Printed as one line of JSON. The first of several packages of one name is the one that is imported.
_PROBE = """
import importlib.metadata, importlib.util, json, os, re, site, sys, sysconfig
folders = ([site.getusersitepackages()] if site.ENABLE_USER_SITE else []) + site.getsitepackages()
packages = {}
for found in importlib.metadata.distributions():
    packages.setdefault(re.sub(r"[-_.]+", "-", str(found.metadata["Name"])).lower(), found.version)
print(json.dumps({
    "executable": sys.executable,
    "version": sys.version,
    "site_folders": [folder for folder in folders if os.path.isdir(folder)],
    "venv_site_folder": os.path.relpath(sysconfig.get_path("purelib", "venv", {"base": "/venv"}), "/venv"),
    "packages": packages,
    "has_pip": importlib.util.find_spec("pip") is not None,
}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One Python and what is installed for it.

    Attributes:
        executable: absolute path.
        version: `sys.version`, compiler and all.
        site_folders: where its packages lie, in the order in which they are looked through.
        venv_site_folder: where a virtual environment has its packages, relative to the environment.
        packages: normalised name -> version, of all that is installed.
        has_pip: whether `python -m pip` works.
    """

    executable: str
    version: str
    site_folders: list[str]
    venv_site_folder: str
    packages: dict[str, str]
    has_pip: bool

    @property
    def constraints(self) -> list[str]:
        """Requirement lines that hold `HELD_PACKAGES` at the versions installed."""
        return [f"{name}=={self.packages[name]}" for name in HELD_PACKAGES if name in self.packages]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All of it: what was satisfied by a package of the server may not be by its next version."""
        return asdict(self)


async def probe(python: str, environment: Mapping[str, str]) -> Interpreter:
    """Asks an interpreter what it has.

    Raises:
        OSError: it cannot be started, or is no Python that this server can use.
    """
    lines: list[str] = []
    command = [python, "-P", "-c", _PROBE]
    status = await run_program(command, folder=Path(), environment=environment, on_line=lines.append)
    if status != 0 or not lines:
        raise OSError(f"{python} ended with status {status}: {' | '.join(lines[-3:])}")
    return Interpreter(**json.loads(lines[-1]))
