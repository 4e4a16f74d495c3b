"""Putting together the folder of a model for a test."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

_SCHEMES = ("http", "https", "file")


def download_model(url: str, model_dir: str | Path) -> Path:
    """Fetches a file into the folder, under the last part of its URL; one that is there already is kept.

    Raises:
        ValueError: the URL names no file, or is none that can be fetched.
        OSError: the server does not answer, or the file cannot be written. Nothing is left behind.
    """
    name = Path(urlsplit(url).path).name
    if not name or urlsplit(url).scheme not in _SCHEMES:
        raise ValueError(f"{url!r} must be a URL of a file, with one of {', '.join(_SCHEMES)}")
    target = Path(model_dir) / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{name}.part")
    try:
        with urlopen(url) as source, partial.open("wb") as file:
            shutil.copyfileobj(source, file)
        return partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def copy_files(src: str | Path, dst: str | Path, mapping: Mapping[str, str]) -> None:
    """Copies files from one folder to the other.

    Args:
        mapping: path within `src` to path within `dst`.
    """
    for source, target in mapping.items():
        path = Path(dst) / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(src) / source, path)
