"""What both programs share of logging: the names of the logs, and how a worker writes.

The other modules of this package are the frontend's: `lines` (what a line is and looks like), `writer` (queue and
thread), `outlets`, `files` and `console` (where lines go), `server_logs` (all of them together).
"""

from __future__ import annotations

import logging
import sys

ACCESS_LOG = "ACCESS_LOG"
MODEL_LOG = "MODEL_LOG"
TS_METRICS = "TS_METRICS"
MODEL_METRICS = "MODEL_METRICS"


def configure_worker_logging() -> None:
    """Handlers log to stdout as bare messages; the frontend adds time, level and name."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)


def printable(line: str) -> str:
    """`line` without control characters that could forge other lines or move a terminal's cursor."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)
