"""The folders that archives have been unpacked into, so that a second model of the same archive needs no second copy.

Every model has a folder of its own, because a handler may write there. Its files can be those of an earlier model:

- as reflinks, where the file system has them: what is written for one model, no other sees;
- as hard links, where no code out of the archive runs for either model: our own handlers leave its files as they are.

Where neither will do, the archive is unpacked again. All of it lies in the server's private folder and goes with it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_FICLONE = 0x40049409  # include/uapi/linux/fs.h
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
# Two changes within a tick of the file system's clock leave one time; 2 s is the coarsest tick there is.
_SETTLED_NS = 2_000_000_000


class ArchiveState(NamedTuple):
    """A file that has the same state has the same content. Nobody can set the time of the last change back."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, archive: Path) -> ArchiveState:
        status = archive.stat()
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(status.st_dev, status.st_ino, status.st_size, *times)

    @property
    def is_settled(self) -> bool:
        return time.time_ns() - self.changed_ns > _SETTLED_NS


class _FileState(NamedTuple):
    """The same for a file that has come out of an archive; linking it counts as a change, so that time is no help."""

    inode: int
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> _FileState:
        status = path.lstat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _Tree:
    """A model's folder as it came out of the archive; names are relative, `folders` has parents first."""

    root: Path
    folders: tuple[str, ...]
    files: dict[str, _FileState]
    runs_own_code: bool


class UnpackedArchives:
    """The state here is the trees by archive and folder; the lock guards it: archives are opened in threads."""

    def __init__(self) -> None:
        self._trees: dict[ArchiveState, dict[Path, _Tree]] = {}
        self._lock = threading.Lock()

    def add(self, archive: ArchiveState, root: Path, *, runs_own_code: bool) -> None:
        """`root` is what that archive unpacks to; no worker has been there yet."""
        if archive.is_settled:
            tree = _look_at(root, runs_own_code)
            with self._lock:
                self._trees.setdefault(archive, {})[root] = tree

    def forget(self, root: Path) -> None:
        """To be called before the folder is removed."""
        with self._lock:
            for archive, trees in list(self._trees.items()):
                if trees.pop(root, None) is not None and not trees:
                    del self._trees[archive]

    def reuse(self, archive: ArchiveState, target: Path, *, runs_own_code: bool) -> bool:
        """Makes the new folder `target` out of an earlier one of the same archive; False: there is no folder.

        One is tried and no more: where it fails because the file system has no reflinks, so would all the others.
        """
        with self._lock:
            newest = next(reversed(self._trees.get(archive, {}).values()), None)
        return newest is not None and _repeat(newest, target, runs_own_code)


def _look_at(root: Path, runs_own_code: bool) -> _Tree:
    entries = sorted(root.rglob("*"))
    folders = [".", *(str(entry.relative_to(root)) for entry in entries if entry.is_dir())]
    files = {str(entry.relative_to(root)): _FileState.of(entry) for entry in entries if not entry.is_dir()}
    return _Tree(root, tuple(folders), files, runs_own_code or any(name.endswith(".py") for name in files))


def _repeat(tree: _Tree, target: Path, runs_own_code: bool) -> bool:
    may_link = not (tree.runs_own_code or runs_own_code)
    try:
        for folder in tree.folders:
            _make_folder(target / folder)
        for name, state in tree.files.items():
            _repeat_file(tree.root / name, state, target / name, may_link)
    except OSError:
        # The earlier model is just being removed or its files have changed, or the file system can do neither.
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def _make_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(_FOLDER_MODE)  # mkdir's own mode would be cut by the umask


def _repeat_file(source: Path, state: _FileState, target: Path, may_link: bool) -> None:
    if may_link:
        os.link(source, target, follow_symlinks=False)
    else:
        _clone(source, target)
    # Looked at afterwards: what was written before or meanwhile shows.
    if _FileState.of(source) != state:
        raise OSError(f"{source} is not what it was unpacked as.")


def _clone(source: Path, target: Path) -> None:
    """Raises OSError where the file system has no reflinks."""
    with source.open("rb") as original, target.open("xb") as clone:
        os.fchmod(clone.fileno(), _FILE_MODE)
        fcntl.ioctl(clone.fileno(), _FICLONE, original.fileno())
