"""A temporary folder that belongs to one server, and goes with it even when it was killed.

The server holds a lock on the folder, which the kernel takes away with the process: a folder that can be locked has
lost its server, and the next one removes it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

_PREFIX = "modelserver-unpacked-"
# What `tempfile` makes of the prefix: nothing else is ever removed.
_OURS = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")


class PrivateFolder:
    """The state here is the folder and its lock."""

    def __init__(self, temp_dir: Path) -> None:
        self._temp_dir = temp_dir
        self.path, self._lock = _new_folder(temp_dir)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def sweep(self) -> None:
        """Removes those of servers that were killed. Others of this user's, and of other users', stay."""
        for folder in self._temp_dir.glob(f"{_PREFIX}*"):
            if folder != self.path and _OURS.fullmatch(folder.name):
                _remove_abandoned(folder)


def _new_folder(temp_dir: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=temp_dir))
        lock = _try_to_lock(folder)
        # Another server may have swept it before it was locked.
        if lock is not None and folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)


def _try_to_lock(folder: Path) -> int | None:
    """None when somebody has the lock, or it is no folder of this user's."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == stat.S_IRWXU:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _remove_abandoned(folder: Path) -> None:
    lock = _try_to_lock(folder)
    if lock is None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
    log.info("Removed %s, which a server that was killed had left.", folder)
