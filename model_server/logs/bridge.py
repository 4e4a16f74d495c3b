"""Between Python's `logging` and the writer.

What loggers are given becomes lines; handlers that an operator configured get them from the writer's thread.
"""

from __future__ import annotations

import copy
import logging
import logging.config
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_server.logs import printable
from model_server.logs.console import Console
from model_server.logs.lines import ANNOUNCEMENT, Line
from model_server.logs.writer import Put

_EXCEPTIONS = logging.Formatter()


class LineHandler(logging.Handler):
    """Makes a line of every record, in the thread that logs; what a record refers to may change later.

    A record's `request_id` is the line's. `detail` is printed below it as it is, and is for texts of our own.
    """

    def __init__(self, put: Put) -> None:
        super().__init__()
        self._put = put

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._put(_line(record))
        except Exception:
            self.handleError(record)


def _line(record: logging.LogRecord) -> Line:
    return Line(
        record.created,
        record.levelno,
        record.name,
        record.threadName or "",
        record.getMessage(),
        _detail(record),
        getattr(record, "request_id", None),
        record,
    )


def _detail(record: logging.LogRecord) -> str:
    detail: str = getattr(record, "detail", "")
    if not record.exc_info:
        return detail
    # Indented: whatever a client put into an exception's text, no line of it begins like one of the log.
    trace = _EXCEPTIONS.formatException(record.exc_info).splitlines()
    return "\n".join([*detail.splitlines(), *(f"\t{printable(text)}" for text in trace)])


@dataclass(frozen=True, slots=True)
class _Node:
    """A logger as it was configured."""

    handlers: Sequence[logging.Handler]
    propagate: bool


class ConfiguredOutlet:
    """The handlers of an operator's logging configuration, run in the writer's thread instead of the event loop's."""

    def __init__(self, document: Mapping[str, Any], console: Console) -> None:
        """Applies a document in the form of `logging.config.dictConfig`.

        Raises:
            ValueError: it is not one.
        """
        self._console = console
        try:
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **document})
        finally:
            self._nodes = {logger.name: _detached(logger) for logger in _all_loggers()}

    def write(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if line.logger == ANNOUNCEMENT:
                self._console.write(f"{line.message}\n".encode(), 1)
                continue
            record = _record(line)
            for handler in self._handlers(line.logger):
                if record.levelno >= handler.level:
                    handler.handle(record)

    def flush(self) -> bool:
        return self._console.flush()

    def reopen(self) -> None:
        """Files are opened again with their next line."""
        for node in self._nodes.values():
            for handler in node.handlers:
                if isinstance(handler, logging.FileHandler) and handler.mode == "a":
                    handler.close()

    def close(self) -> None:
        for node in self._nodes.values():
            for handler in node.handlers:
                handler.close()

    def _handlers(self, name: str) -> Iterator[logging.Handler]:
        """Of the logger and of those above it, as far as it propagates."""
        while True:
            node = self._nodes.get(name)
            if node is not None:
                yield from node.handlers
            if name == "root" or (node is not None and not node.propagate):
                return
            name = name.rpartition(".")[0] or "root"


def _all_loggers() -> list[logging.Logger]:
    named = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in named if isinstance(logger, logging.Logger))]


def _detached(logger: logging.Logger) -> _Node:
    """Takes the logger's handlers away: its records go to the root, and from there into the queue."""
    node = _Node(tuple(logger.handlers), logger.propagate)
    logger.handlers.clear()
    logger.propagate = True
    return node


def _record(line: Line) -> logging.LogRecord:
    """For handlers with forms of their own: the message is one line and safe to print."""
    if line.record is not None:
        record = copy.copy(line.record)
    else:
        names = {"name": line.logger, "levelno": line.level, "levelname": logging.getLevelName(line.level)}
        times = {"created": line.created_s, "msecs": line.created_s % 1 * 1000}
        record = logging.makeLogRecord(names | times | {"threadName": line.thread, "request_id": line.request_id})
    message = printable(line.message)
    record.msg, record.args = f"{message}\n{line.detail}" if line.detail else message, None
    record.exc_info = record.exc_text = None
    return record
