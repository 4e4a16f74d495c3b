"""The frontend's log from its first line to its last."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from model_server.logs import ACCESS_LOG, MODEL_METRICS, TS_METRICS
from model_server.logs.bridge import ConfiguredOutlet, LineHandler
from model_server.logs.console import Console
from model_server.logs.levels import set_levels
from model_server.logs.lines import ANNOUNCEMENT, Line, TextForm, json_form
from model_server.logs.outlets import FileOutlet, FileReports, LogFolders
from model_server.logs.settings import LogSettings
from model_server.logs.writer import LogWriter, Outlet, Put, warning

# Loggers that have several lines for every request: a record of `logging` for each would cost too much.
BUSY = (ACCESS_LOG, TS_METRICS, MODEL_METRICS)
_THREAD = "MainThread"


class ServerLogs:
    """Owns the writer, between `open` and `close`."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._is_on = {name: logging.getLogger(name).isEnabledFor(logging.INFO) for name in BUSY}

    @classmethod
    def open(cls, settings: LogSettings) -> ServerLogs:
        """Makes the files and sends everything that is logged their way. Never fails."""
        set_levels(settings.levels)
        problems: list[str] = []
        writer = LogWriter(lambda put: _outlet(settings, put, problems))
        logging.getLogger().handlers[:] = [LineHandler(writer.put)]
        writer.start()
        for problem in problems:
            writer.put(warning(problem))
        return cls(writer)

    def write_later(
        self, logger: str, make: Callable[..., str], args: tuple[Any, ...], request_id: str | None, characters: int
    ) -> None:
        """Logs a line of one of the `BUSY` loggers at INFO, as cheaply as can be.

        Args:
            make: gives the message when it is called with the time of this call, in seconds since the epoch, and
                `args`; it runs on another thread and must not raise.
            characters: how long the message will be, roughly.
        """
        if self._is_on[logger]:
            self._writer.put_draft((time.time(), logger, make, args, request_id), characters)

    def announce(self, text: str) -> None:
        """Prints a line without time and level, which programs wait for; it goes to no file."""
        self._writer.put(Line(time.time(), logging.INFO, ANNOUNCEMENT, _THREAD, text))

    def reopen(self) -> None:
        """For programs that move log files away: the files are made anew, soon."""
        self._writer.reopen()

    def close(self) -> None:
        """Writes what waits; waits itself two seconds for that at most."""
        self._writer.close()


def _outlet(settings: LogSettings, put: Put, problems: list[str]) -> Outlet:
    console = Console(_descriptor(sys.stdout), lambda lost: put(warning(_unread(lost))))
    if settings.document is not None:
        try:
            return ConfiguredOutlet(settings.document, console)
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            cause = f": {error.__cause__}" if error.__cause__ else ""
            problems.append(f"The logging configuration is not used: {error}{cause}. The log is as without it.")
            set_levels(settings.levels)
    folders = LogFolders(settings.folder, settings.metrics_folder)
    reports = FileReports(Console(_descriptor(sys.stderr)), put)
    return FileOutlet(folders, TextForm() if settings.form == "text" else json_form, console, reports)


def _descriptor(stream: TextIO | None) -> int:
    """Python has no stream where the process was started without one."""
    return stream.fileno() if stream is not None else os.open(os.devnull, os.O_WRONLY)


def _unread(lost: int) -> str:
    return f"{lost} lines were not written to standard output, since nobody read it; the files have them."
