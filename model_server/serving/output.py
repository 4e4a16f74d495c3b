"""What workers print: a line of the model log for each of their lines, whatever is in it."""

from __future__ import annotations

import asyncio
import logging
import time

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
    allowance = Allowance()
    rest = b""
    while data := await stream.read(_READ_BYTES):
        if allowance.is_used_up(time.monotonic()):
            allowance.drop(len(rest) + len(data))
            rest = b""
            continue
        _log_dropped(allowance, source)
        *lines, rest = _split(rest + data)
        for number, line in enumerate(lines, 1):
            if allowance.take(len(line)):
                _log_line(line, level, source)
            if number % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
    if rest and allowance.take(len(rest)):
        _log_line(rest, level, source)
    _log_dropped(allowance, source)


class Allowance:
    """How much one stream may still print. Once used up it is so until a second's worth has come back.

    The state here is what is left, when that was reckoned, and what was dropped.
    """

    def __init__(self) -> None:
        self._left = float(BURST_BYTES)
        self._reckoned_s: float | None = None
        self._is_used_up = False
        self._dropped = 0

    def is_used_up(self, now_s: float) -> bool:
        if self._reckoned_s is not None:
            self._left = min(BURST_BYTES, self._left + (now_s - self._reckoned_s) * BYTES_PER_S)
        self._reckoned_s = now_s
        self._is_used_up = self._is_used_up and self._left < BYTES_PER_S
        return self._is_used_up

    def take(self, line_bytes: int) -> bool:
        """False, and the line is counted as dropped, when there is no room for it."""
        cost = line_bytes + LINE_BYTES
        self._is_used_up = self._is_used_up or self._left < cost
        if self._is_used_up:
            self.drop(line_bytes)
            return False
        self._left -= cost
        return True

    def drop(self, size: int) -> None:
        self._dropped += size

    def take_dropped(self) -> int:
        """Bytes dropped since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped


def _split(data: bytes) -> list[bytes]:
    """Lines, long ones in pieces; the last one may go on."""
    size = LONGEST_LINE_BYTES
    return [line[at : at + size] for line in data.split(b"\n") for at in range(0, max(1, len(line)), size)]


def _log_line(line: bytes, level: int, source: str) -> None:
    _log(line.decode(errors="backslashreplace").rstrip("\r"), level, source)


def _log_dropped(allowance: Allowance, source: str) -> None:
    if dropped := allowance.take_dropped():
        text = f"{dropped} bytes of output were dropped: a worker may print {BYTES_PER_S} bytes per second."
        _log(text, logging.WARNING, source)


def _log(message: str, level: int, source: str) -> None:
    if model_log.isEnabledFor(level):
        record = model_log.makeRecord(model_log.name, level, "", 0, message, (), None)
        record.threadName = source
        model_log.handle(record)
