"""Logging set-up of both programs: plain lines, one logger name per audience.

`MODEL_LOG` carries what workers print; everything else is the server's own.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

MODEL_LOG = "MODEL_LOG"


class ServerFormatter(logging.Formatter):
    """`2024-05-30T21:46:03,625 [INFO ] thread logger - message`, local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)-5s] %(threadName)s %(name)s - %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        return f"{stamp},{int(record.msecs):03d}"


def configure_server_logging(stream: TextIO = sys.stdout) -> None:
    """Everything from INFO up goes to `stream`, in TorchServe's form."""
    logging.addLevelName(logging.WARNING, "WARN")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ServerFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def configure_worker_logging() -> None:
    """Handlers log to stdout as bare messages; the frontend adds time, level and name."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)


def printable(line: str) -> str:
    """`line` without control characters that could forge other lines or move a terminal's cursor."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)
