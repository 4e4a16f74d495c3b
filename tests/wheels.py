"""Tiny packages for tests of installations: wheels written by hand, and sources that need nothing to be built."""

from __future__ import annotations

import zipfile
from pathlib import Path

# A build backend of the package itself, so that pip needs no other one. HOOK is code that runs during the installation.
_BACKEND = """
import os, pathlib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    HOOK
    name = "NAME-VERSION-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
    return name
"""


def _files(name: str, version: str, requires: str | None) -> dict[str, str]:
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    info = f"{name}-{version}.dist-info"
    return {
        f"{name}/__init__.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }


def write_wheel(folder: Path, version: str, name: str = "msdemo", requires: str | None = None) -> Path:
    """A wheel of a package whose `version` says what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in _files(name, version, requires).items():
            wheel.writestr(file, text)
    return path


def write_source(folder: Path, version: str, hook: str, name: str = "msdemo") -> Path:
    """A source folder of the same package; `hook` is one line of code that its installation runs."""
    folder.mkdir(parents=True, exist_ok=True)
    pyproject = f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    pyproject += f'[project]\nname = "{name}"\nversion = "{version}"\n'
    (folder / "pyproject.toml").write_text(pyproject)
    backend = _BACKEND.replace("HOOK", hook).replace("NAME", name).replace("VERSION", version)
    (folder / "backend.py").write_text(backend.replace("FILES", repr(_files(name, version, None))))
    return folder
