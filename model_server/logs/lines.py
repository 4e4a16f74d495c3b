"""One line of the log, and the forms it is written in.

Text has the form that TorchServe's log4j2 configuration gives it; JSON is one object per line.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

from model_server.logs import printable

# No logger: the message alone, on standard output alone, for programs that wait for it.
ANNOUNCEMENT = ""


class Line(NamedTuple):
    """One event of the log.

    Attributes:
        created_s: seconds since the epoch.
        level: number of a level of `logging`.
        message: may hold anything; the forms keep it on one line.
        detail: more lines, a traceback say, which are written as they are.
        record: what it was made from, where it came through `logging`.
    """

    created_s: float
    level: int
    logger: str
    thread: str
    message: str
    detail: str = ""
    request_id: str | None = None
    record: logging.LogRecord | None = None


# A line that is put together when it is written, where nobody waits for it: when, logger, `make(when, *args)` gives the
# message, the arguments, the request's id.
Draft: TypeAlias = tuple[float, str, Callable[..., str], tuple[Any, ...], str | None]


def line_of(draft: Draft) -> Line:
    """The line of a draft, which is one at INFO."""
    created_s, logger, make, args, request_id = draft
    fields = (created_s, logging.INFO, logger, "MainThread", make(created_s, *args), "", request_id, None)
    return tuple.__new__(Line, fields)  # in half the time that `Line(...)` takes


class Form(Protocol):
    """How a line looks, with its line break."""

    def __call__(self, line: Line) -> tuple[str, str]:
        """The long form, and the short one of the files that hold one logger's lines."""
        ...


class TextForm:
    """`2024-05-30T21:46:03,625 [INFO ] thread logger - message`, or without what is in the middle; local time.

    The state here is the time of the line that was written last, as text: those of one moment share it.
    """

    def __init__(self) -> None:
        self._second = self._millisecond = -1
        self._date_and_time = self._stamp = ""

    def __call__(self, line: Line) -> tuple[str, str]:
        created_s, level, logger, thread, message, detail, _, _ = line
        millisecond = int(created_s * 1000)
        if millisecond != self._millisecond:
            self._set_stamp(millisecond)
        stamp, text = self._stamp, printable(message)
        if detail:
            text = f"{text}\n{detail}"
        return f"{stamp}{_source(level, thread, logger)}{text}\n", f"{stamp} - {text}\n"

    def _set_stamp(self, millisecond: int) -> None:
        second = millisecond // 1000
        if second != self._second:
            self._date_and_time = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))
            self._second = second
        self._stamp = f"{self._date_and_time},{millisecond % 1000:03d}"
        self._millisecond = millisecond


@lru_cache(maxsize=1024)
def _source(level: int, thread: str, logger: str) -> str:
    return f" [{logging.getLevelName(level):<5}] {thread} {logger} - "


def json_form(line: Line) -> tuple[str, str]:
    """`{"time": …, "level": …, "logger": …, "thread": …, "message": …}`, and `request_id` where there is one.

    The time is that of RFC 3339 with the zone's offset; others than ASCII characters are escaped. Both forms are equal.
    """
    fields = {
        "time": _rfc3339(line.created_s),
        "level": logging.getLevelName(line.level),
        "logger": line.logger,
        "thread": line.thread,
        "message": f"{line.message}\n{line.detail}" if line.detail else line.message,
    }
    if line.request_id is not None:
        fields["request_id"] = line.request_id
    text = json.dumps(fields) + "\n"
    return text, text


def _rfc3339(created_s: float) -> str:
    moment = time.localtime(created_s)
    zone = time.strftime("%z", moment)
    milliseconds = int(created_s % 1 * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{milliseconds:03d}{zone[:3]}:{zone[3:]}"
