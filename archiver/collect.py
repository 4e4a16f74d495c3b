"""Which files go into an archive, and under which names."""

import filecmp
import glob
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from archiver.errors import MissingInput, PackError

logger = logging.getLogger(__name__)

_WILDCARD = re.compile(r"[*?]|\[.*\]")
_DROPPED_FOLDERS = ("__pycache__", "__MACOSX")


@dataclass(frozen=True)
class SourceFile:
    """A file on disk and its name in the archive."""

    name: str
    path: Path


def single_file(path: str, flag: str) -> SourceFile:
    """The file given to a flag, packed under its base name; raises MissingInput when there is none."""
    source = Path(path)
    if not source.exists():
        raise MissingInput(f"[Errno 2] No such file or directory: '{path}' (given to {flag}).")
    if not source.is_file():
        raise PackError(f"{flag} takes a file, and {path} is not one.")
    return SourceFile(source.name, source)


def extra_files(items: str) -> Iterator[SourceFile]:
    """The files of a comma-separated list of files, folders and wildcards.

    A file keeps its base name. The contents of a folder go to the archive's root, sub-folders with their structure;
    hidden folders, `__pycache__` and `__MACOSX` are left out, hidden files are not.

    Raises:
        MissingInput: an item does not exist.
        PackError: it is a device, or a link in a folder leads out of that folder.
    """
    for item in filter(None, map(str.strip, items.split(","))):
        if _WILDCARD.search(item):
            yield from _matching_files(item)
        elif not Path(item).exists():
            raise MissingInput(f"File does not exist: {item}. It is named in --extra-files.")
        else:
            yield from _item_files(Path(item))


def _matching_files(pattern: str) -> Iterator[SourceFile]:
    matches = sorted(map(Path, glob.glob(pattern)))  # noqa: PTH207  (Path.glob takes no absolute pattern)
    if not matches:
        logger.warning("Given wildcard pattern did not match any file: %s", pattern)
    for match in matches:
        if not (match.is_dir() and _is_dropped(match.name)):
            yield from _item_files(match)


def _item_files(item: Path) -> Iterator[SourceFile]:
    if item.is_dir():
        root = item.resolve()
        yield from _folder_files(item, root, prefix="", ancestors=(root,))
    elif item.is_file():
        yield SourceFile(item.name, item)
    else:
        raise PackError(f"Invalid extra file given {item}: it is neither a file nor a folder.")


def _folder_files(folder: Path, root: Path, prefix: str, ancestors: tuple[Path, ...]) -> Iterator[SourceFile]:
    for child in sorted(folder.iterdir()):
        name = prefix + child.name
        if child.is_dir() and _is_dropped(child.name):
            continue
        _check_link(child, root, ancestors)
        if child.is_dir():
            yield from _folder_files(child, root, f"{name}/", (*ancestors, child.resolve()))
        elif child.is_file():
            yield SourceFile(name, child)
        else:
            raise PackError(f"Invalid extra file given {child}: it is neither a file nor a folder.")


def _is_dropped(folder_name: str) -> bool:
    return folder_name in _DROPPED_FOLDERS or folder_name.startswith(".")


def _check_link(path: Path, root: Path, ancestors: tuple[Path, ...]) -> None:
    if not path.is_symlink():
        return
    target = path.resolve()
    if not target.is_relative_to(root):
        raise PackError(
            f"{path} is a link to {target}, outside the folder given to --extra-files; it is not followed. "
            "Copy the folder with `cp -rL` first, or name the file itself in --extra-files."
        )
    if target in ancestors:
        raise PackError(f"{path} is a link to a folder that it lies in; following it would never end. Remove the link.")


def merge(sources: Iterator[SourceFile]) -> list[SourceFile]:
    """One source for each name, sorted by name. Of several the last wins, with a warning when they differ."""
    chosen: dict[str, SourceFile] = {}
    for source in sources:
        earlier = chosen.get(source.name)
        if earlier and not filecmp.cmp(earlier.path, source.path, shallow=False):
            logger.warning("%s replaces %s: both would be %s in the archive", source.path, earlier.path, source.name)
        chosen[source.name] = source
    return [chosen[name] for name in sorted(chosen)]
