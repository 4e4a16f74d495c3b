"""Tiny packages for tests of installations: wheels written by hand, and sources that need nothing to be built."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

# The package is its own build backend, so that pip needs no other one. HOOK runs during the installation.
_BACKEND = """
import os, pathlib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    HOOK
    with zipfile.ZipFile(pathlib.Path(wheel_directory, "WHEEL"), "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
    return "WHEEL"
"""
_PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "msdemo"
version = "VERSION"
"""


def write_wheel(folder: Path, version: str, requires: str = "", files: Mapping[str, str] | None = None) -> Path:
    """A wheel of the package `msdemo`, whose `version` says which one it is; `files`: more of them."""
    return _zip(folder / _wheel_name(version), {**_wheel_files(version, requires), **(files or {})})


def write_source(folder: Path, version: str, hook: str) -> Path:
    """An archive with the source of `msdemo`; `hook` is a line of code that its installation runs, once."""
    backend = _BACKEND.replace("HOOK", hook).replace("WHEEL", _wheel_name(version))
    files = {
        "pyproject.toml": _PYPROJECT.replace("VERSION", version),
        "backend.py": backend.replace("FILES", repr(_wheel_files(version, ""))),
    }
    return _zip(folder / f"msdemo-{version}.zip", {f"msdemo-{version}/{name}": text for name, text in files.items()})


def _wheel_name(version: str) -> str:
    return f"msdemo-{version}-py3-none-any.whl"


def _wheel_files(version: str, requires: str) -> dict[str, str]:
    metadata = f"Metadata-Version: 2.1\nName: msdemo\nVersion: {version}\n"
    info = f"msdemo-{version}.dist-info"
    return {
        "msdemo/__init__.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }


def _zip(path: Path, files: Mapping[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # without the time: equal content, equal bytes
    return path
