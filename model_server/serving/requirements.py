"""What a requirements file stands for: its text, the files it includes and those of the archive that it names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

# Between these stand the words of a line: paths, names, versions and options.
_WORDS = re.compile(r"""[^\s=;@'"\[\]]+""")
_INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]*(\S+)", re.MULTILINE)
_EDITABLE = re.compile(r"^\s*(?:-e|--editable)[\s=]+([^\s\[]+)", re.MULTILINE)


class UnusableRequirements(Exception):
    """The file asks for something that an environment kept for later cannot hold."""


def content_hashes(root: Path, requirements_file: str) -> dict[str, str]:
    """SHA-256 of the requirements file and of every file below `root` that it names, by path relative to `root`.

    Any word that is the path of a file or folder counts: one file too many only installs once more.

    Raises:
        UnusableRequirements: an editable installation of a folder of the archive, which goes away with the archive.
        OSError: a file cannot be read.
    """
    root = Path(os.path.realpath(root))
    included, named = [root / requirements_file], set[Path]()
    for file in included:
        text = file.read_bytes().decode(errors="replace")
        _refuse_editables(text, root, file)
        included += [path for path in _found(_INCLUDED, text, root, file) if path.is_file() and path not in included]
        for path in _found(_WORDS, text, root, file):
            named.update([path] if path.is_file() else filter(Path.is_file, path.rglob("*")))
    return {str(path.relative_to(root)): _sha256(path) for path in sorted(named.union(included))}


def _refuse_editables(text: str, root: Path, file: Path) -> None:
    for path in _found(_EDITABLE, text, root, file):
        folder = path.relative_to(root)
        raise UnusableRequirements(
            f"{file.relative_to(root)} has -e ./{folder}, but the environment outlives the archive's files: "
            f"write ./{folder} without -e."
        )


def _found(pattern: re.Pattern[str], text: str, root: Path, file: Path) -> Iterator[Path]:
    """Matches that are paths of something below `root`, seen from there (as pip runs there) or from the file."""
    for word in dict.fromkeys(pattern.findall(text)):
        for base in {root, file.parent}:
            path = Path(os.path.normpath(base / word))
            # Not Path.exists: that raises for words which are too long for a name.
            if path.is_relative_to(root) and os.path.exists(path):  # noqa: PTH110
                yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
