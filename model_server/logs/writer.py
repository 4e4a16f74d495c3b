"""The queue between those who log and the one thread that writes.

Nobody who logs ever waits: not for a disk, not for a pipe that nobody reads.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from model_server.logs.lines import Draft, Line, line_of

# What may wait to be written; more is dropped and counted.
MAX_WAITING_CHARACTERS = 16 << 20
# How long the thread lets lines gather before it looks again: so often it is woken at most, however many there are.
GATHER_S = 0.01
# What a line takes in memory besides its message, roughly.
_LINE_CHARACTERS = 256
_RETRY_S = 1.0

OWN_LOGGER = "model_server.logs"


Put = Callable[[Line], None]


class Outlet(Protocol):
    """Where lines go. Used by the writer's thread only."""

    def write(self, lines: Sequence[Line]) -> None: ...

    def flush(self) -> bool:
        """Tries again to write what could not be written; False while there is any."""
        ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...


class LogWriter:
    """Takes lines from any thread and writes them in one of its own.

    The state here is what waits: lines, their size, how many were dropped, and a wish to reopen. There is no lock: a
    deque's ends need none, what threads that log at once make of the counts is near enough, and a finalizer that logs
    may run anywhere. (With a lock a line cost 0.9 us instead of 0.2.)
    """

    def __init__(self, build_outlet: Callable[[Put], Outlet]) -> None:
        """`build_outlet` is given `put`, for what an outlet has to say itself."""
        self._lines: deque[Line | Draft] = deque()
        self._waiting_characters = 0
        self._dropped = 0
        self._must_reopen = False
        self._is_idle = False
        # Rung when the thread sleeps: cheaper for who logs than an event is.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._outlet = build_outlet(self.put)

    def start(self) -> None:
        self._thread.start()

    def put(self, line: Line) -> None:
        self._put(line, len(line.message))

    def put_draft(self, draft: Draft, characters: int) -> None:
        """`characters`: how long its message will be, roughly."""
        self._put(draft, characters)

    def _put(self, line: Line | Draft, characters: int) -> None:
        if self._waiting_characters >= MAX_WAITING_CHARACTERS:
            self._dropped += 1
            return
        self._waiting_characters += characters + _LINE_CHARACTERS
        self._lines.append(line)
        # In this order, as the thread looks in the other one: one of the two sees that the other is there.
        if self._is_idle:
            self._is_idle = False
            self._bell.put(None)

    def reopen(self) -> None:
        """Has the files closed and opened again, soon."""
        self._must_reopen = True
        self._bell.put(None)

    def close(self, timeout_s: float = 2.0) -> None:
        """Writes what waits. A disk or a pipe that hangs is left behind after `timeout_s`."""
        self._closing.set()
        self._bell.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        is_flushed = True
        while self._wait(None if is_flushed else _RETRY_S):
            is_flushed = self._round()
            self._closing.wait(GATHER_S)
        self._round()
        self._outlet.close()

    def _wait(self, timeout_s: float | None) -> bool:
        """Until there is something to do; False when there is nothing more to come."""
        self._is_idle = True
        if not self._lines and not self._must_reopen:
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=timeout_s)
        self._is_idle = False
        return not self._closing.is_set()

    def _round(self) -> bool:
        """Writes everything that waits; False when some of it is stuck."""
        try:
            if self._take_reopen():
                self._outlet.reopen()
            self._outlet.write(self._take_lines())
            return self._outlet.flush()
        except Exception:
            # The one place where a failure cannot be logged.
            traceback.print_exc(file=sys.stderr)
            return True

    def _take_reopen(self) -> bool:
        must_reopen, self._must_reopen = self._must_reopen, False
        return must_reopen

    def _take_lines(self) -> list[Line]:
        waiting = [self._lines.popleft() for _ in range(len(self._lines))]
        lines = [line if isinstance(line, Line) else line_of(line) for line in waiting]
        dropped, self._dropped = self._dropped, 0
        self._waiting_characters = 0
        if dropped:
            message = f"{dropped} lines of the log were dropped: there were more than could be written."
            lines.append(warning(message))
        return lines


def warning(message: str) -> Line:
    """What the log says about itself."""
    return Line(time.time(), logging.WARNING, OWN_LOGGER, threading.current_thread().name, message)
