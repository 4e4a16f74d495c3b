"""A temporary folder that belongs to one server, and goes with it even when it was killed.

The server holds a lock on the folder, which the kernel takes away with the process: a folder that can be locked has
lost its server, and the next one removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ATTEMPTS = 10


class PrivateFolder:
    """The state here is the folder and its lock; None where the file system has no locks, and nobody sweeps."""

    def __init__(self, temp_dir: Path) -> None:
        self._temp_dir = temp_dir
        self._prefix = f"modelserver-unpacked-{_kernel()}-"
        self.path, self._lock = _new_folder(temp_dir, self._prefix)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def sweep(self) -> None:
        """Removes those of servers that were killed. Others of this user's, and of other users', stay."""
        # What `tempfile` makes of the prefix: nothing else is ever removed.
        ours = re.compile(rf"{re.escape(self._prefix)}[a-z0-9_]{{8}}")
        for folder in self._temp_dir.glob(f"{self._prefix}*"):
            if folder != self.path and ours.fullmatch(folder.name):
                _remove_abandoned(folder)


def _kernel() -> str:
    """Tells machines apart that share the folder: a lock may be seen by one kernel only."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii")[:8]
    return "local"


def _new_folder(temp_dir: Path, prefix: str) -> tuple[Path, int | None]:
    """Another server may sweep the folder before it is locked, hence the attempts."""
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=temp_dir))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:
            return folder, None
        if folder.exists():
            return folder, lock
        os.close(lock)
    raise OSError(f"A folder made in {temp_dir} does not stay there.")


def _lock(folder: Path) -> int:
    """Raises BlockingIOError when somebody has it, and other OSErrors."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(folder: Path) -> None:
    try:
        lock = _lock(folder)
    except OSError:
        return
    try:
        status = os.fstat(lock)
        if status.st_uid != os.geteuid() or status.st_mode & 0o777 != stat.S_IRWXU:
            return
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
    if folder.exists():
        log.warning("%s, which a server that was killed had left, cannot be removed.", folder)
    else:
        log.info("Removed %s, which a server that was killed had left.", folder)
