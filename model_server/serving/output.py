"""What workers print: a line of the model log for each of their lines, whatever is in it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from model_server.logs import MODEL_LOG

model_log = logging.getLogger(MODEL_LOG)

_READ_BYTES = 1 << 16
# A longer line is logged in pieces of this size: nothing is lost, and a line without end cannot fill our memory.
LONGEST_LINE_BYTES = 1 << 14
# What a worker prints beyond this is dropped and counted. It is not held up: that would look like a hung worker.
BYTES_PER_S = 1 << 20
BURST_BYTES = 2 << 20
# What a line costs besides its text, so that empty ones have a limit as well.
LINE_BYTES = 100
# So many lines are logged before others have their turn on the event loop.
_LINES_AT_ONCE = 256


async def log_output(stream: asyncio.StreamReader, level: int, source: str) -> None:
    """Logs everything up to the end of `stream`. `source` stands where the thread's name does in other lines."""
    output = _Output(source)
    while data := await stream.read(_READ_BYTES):
        for number, line in enumerate(output.take(data, time.monotonic()), 1):
            _log(_text(line), level, source)
            if number % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
    if rest := output.end():
        _log(_text(rest), level, source)


class _Output:
    """Cuts what one stream gives into lines. The state here is the line not yet ended, and what was dropped."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._allowance = Allowance()
        self._rest = b""
        self._dropped_bytes = 0

    def take(self, data: bytes, now_s: float) -> list[bytes]:
        """The lines that may be logged."""
        if self._allowance.is_used_up(now_s):
            self._dropped_bytes += len(self._rest) + len(data)
            self._rest = b""
            return []
        self._report_dropped()
        *lines, self._rest = _split(self._rest + data)
        fitting = self._allowance.take(lines)
        if fitting < len(lines):
            self._dropped_bytes = sum(map(len, lines[fitting:]))
            text = f"It prints more than {BYTES_PER_S} bytes per second: what is too much is dropped."
            _log(text, logging.WARNING, self._source)
        return lines[:fitting]

    def end(self) -> bytes:
        """The line that has no end."""
        self._report_dropped()
        return self._rest

    def _report_dropped(self) -> None:
        if self._dropped_bytes:
            _log(f"{self._dropped_bytes} bytes of output were dropped.", logging.WARNING, self._source)
            self._dropped_bytes = 0


class Allowance:
    """How much one stream may still print. Once used up it is so until a second's worth has come back.

    The state here is what is left, and when that was reckoned.
    """

    def __init__(self) -> None:
        self._left = float(BURST_BYTES)
        self._reckoned_s: float | None = None
        self._is_used_up = False

    def is_used_up(self, now_s: float) -> bool:
        if self._reckoned_s is not None:
            self._left = min(BURST_BYTES, self._left + (now_s - self._reckoned_s) * BYTES_PER_S)
        self._reckoned_s = now_s
        self._is_used_up = self._is_used_up and self._left < BYTES_PER_S
        return self._is_used_up

    def take(self, lines: Sequence[bytes]) -> int:
        """How many of them there is room for, from the first on; with less than all it is used up."""
        for number, line in enumerate(lines):
            cost = len(line) + LINE_BYTES
            if self._left < cost:
                self._is_used_up = True
                return number
            self._left -= cost
        return len(lines)


def _split(data: bytes) -> list[bytes]:
    """Lines, long ones in pieces; the last one may go on."""
    size = LONGEST_LINE_BYTES
    return [line[at : at + size] for line in data.split(b"\n") for at in range(0, max(1, len(line)), size)]


def _text(line: bytes) -> str:
    return line.decode(errors="backslashreplace").rstrip("\r")


def _log(message: str, level: int, source: str) -> None:
    if model_log.isEnabledFor(level):
        record = model_log.makeRecord(model_log.name, level, "", 0, message, (), None)
        record.threadName = source
        model_log.handle(record)
