"""Standard output and standard error, of which nobody knows who reads them."""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable

# Of a pipe that can be written to, so many bytes are taken at once without waiting (PIPE_BUF of Linux).
_PIECE_BYTES = 4096
# What is kept for a reader who has stopped reading.
_MAX_PENDING_BYTES = 1 << 20


class Console:
    """Writes to a descriptor and never waits for its reader.

    The state here is what the reader has not taken yet, and how many lines were dropped meanwhile.
    """

    def __init__(self, descriptor: int, recovered: Callable[[int], None] = lambda lost: None) -> None:
        """`recovered` is told how many lines were dropped, when the reader reads again."""
        self._descriptor = descriptor
        self._recovered = recovered
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._is_gone = False
        self._pending = bytearray()
        self._lost = 0

    def write(self, data: bytes, lines: int) -> None:
        if self._is_gone:
            return
        if len(self._pending) + len(data) > _MAX_PENDING_BYTES and not self.flush():
            self._lost += lines
            return
        self._pending += data
        self.flush()

    def flush(self, timeout_s: float = 0.0) -> bool:
        """Writes what the reader takes now, or until then; False when something is left."""
        end_s = time.monotonic() + timeout_s
        try:
            while self._pending and self._is_writable(end_s - time.monotonic()):
                piece = self._pending if self._is_file else self._pending[:_PIECE_BYTES]
                del self._pending[: os.write(self._descriptor, piece)]
        except BlockingIOError:
            return False
        except OSError:  # nobody will ever read it, or the disk behind it is full
            self._is_gone = not self._is_file
            self._pending.clear()
        if self._lost and not self._pending:
            lost, self._lost = self._lost, 0
            self._recovered(lost)
        return not self._pending

    def _is_writable(self, timeout_s: float) -> bool:
        if self._is_file:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))
