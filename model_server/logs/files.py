"""One file of the log. It may be moved, deleted or cut while it is written, and its disk may be full."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from datetime import date
from pathlib import Path
from typing import Protocol

from model_server.logs.archives import archive_path, tidy_archives

MAX_FILE_BYTES = 100 << 20
# So often at most it is looked whether the file is still the one of that name.
_CHECK_S = 1.0


class Reports(Protocol):
    """Is told what goes wrong with files."""

    def failed(self, path: Path, error: OSError) -> None: ...

    def recovered(self, path: Path, lost: int) -> None: ...

    def not_archived(self, path: Path, error: OSError) -> None: ...


class LogFile:
    """Appends to a file that is archived when it is `MAX_FILE_BYTES` long, and every day.

    The state here is the open file, its size and the day its lines are from, how many lines could not be written, and
    whether the last one only in part.
    """

    def __init__(self, path: Path, reports: Reports, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._path = path
        self._reports = reports
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._size = 0
        self._day = date.min
        self._lost = 0
        self._is_torn = False
        self._checked_s = 0.0
        self._tidier: threading.Thread | None = None

    def open(self) -> None:
        """Never fails: a file that cannot be had is reported, and tried again when there is something to write."""
        try:
            self._open()
        except OSError as error:
            self._reports.failed(self._path, error)

    def write(self, data: bytes, lines: int) -> None:
        try:
            self._make_ready(len(data))
            self._append(data)
        except OSError as error:
            self._lost += lines
            self._reports.failed(self._path, error)
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self._reports.recovered(self._path, lost)

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._checked_s = time.monotonic()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        status = os.fstat(self._descriptor)
        self._size = status.st_size
        self._day = date.fromtimestamp(status.st_mtime) if status.st_size else date.today()

    def _make_ready(self, more_bytes: int) -> None:
        now_s = time.monotonic()
        if now_s - self._checked_s >= _CHECK_S:
            self._checked_s = now_s
            self._check()
        if self._descriptor is None:
            self._open()
        if self._size and (self._size + more_bytes > self._max_bytes or self._day != date.today()):
            self._archive()

    def _check(self) -> None:
        """Lets go of a file that was moved or deleted; takes note of one that was cut."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            named, opened = self._path.stat(), os.fstat(self._descriptor)
            if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino):
                self._size = opened.st_size
                return
        self.close()

    def _append(self, data: bytes) -> None:
        assert self._descriptor is not None
        rest = memoryview(b"\n" + data if self._is_torn else data)
        while rest:
            written = os.write(self._descriptor, rest)
            self._size += written
            rest = rest[written:]
            self._is_torn = bool(rest)

    def _archive(self) -> None:
        try:
            self._path.rename(archive_path(self._path, self._day))
        except OSError as error:
            self._day = date.today()
            self._reports.not_archived(self._path, error)
            return
        self.close()
        self._open()
        if self._tidier is None or not self._tidier.is_alive():
            self._tidier = threading.Thread(target=self._tidy, name=f"archives of {self._path.name}", daemon=True)
            self._tidier.start()

    def _tidy(self) -> None:
        try:
            tidy_archives(self._path)
        except OSError as error:
            self._reports.not_archived(self._path, error)
