"""The frontend's log from its first line to its last."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from model_server.logs.bridge import ConfiguredOutlet, LineHandler
from model_server.logs.console import Console
from model_server.logs.levels import set_levels
from model_server.logs.lines import Line, TextForm, json_form
from model_server.logs.outlets import FileOutlet, FileReports, LogFolders
from model_server.logs.writer import LogWriter, Outlet, Put, warning

FormName = Literal["text", "json"]

_THREAD = "MainThread"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the operator decides about logs.

    Attributes:
        levels: lowest level that is logged, by logger; "" is all others.
        document: handlers in the form of `logging.config.dictConfig`, in place of the console and the five files.
    """

    folder: Path = Path("logs")
    metrics_folder: Path = Path("logs")
    form: FormName = "text"
    levels: Mapping[str, int] = field(default_factory=dict)
    document: Mapping[str, Any] | None = None


class Channel:
    """One logger's ready-made lines, for who has many: without a record of `logging` for each."""

    def __init__(self, writer: LogWriter, logger: str) -> None:
        self._writer = writer
        self._logger = logger
        self._is_on = logging.getLogger(logger).isEnabledFor(logging.INFO)

    def write(self, message: str, request_id: str | None = None) -> None:
        if self._is_on:
            self._writer.put(Line(time.time(), logging.INFO, self._logger, _THREAD, message, "", request_id))

    def write_all(self, messages: Iterable[str]) -> None:
        """All at one moment."""
        if self._is_on:
            now_s, logger = time.time(), self._logger
            self._writer.put_all([Line(now_s, logging.INFO, logger, _THREAD, message) for message in messages])


class ServerLogs:
    """Owns the writer, between `open` and `close`."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    @classmethod
    def open(cls, settings: LogSettings) -> ServerLogs:
        """Makes the files and sends everything that is logged their way. Never fails."""
        set_levels(settings.levels)
        problems: list[str] = []
        writer = LogWriter(lambda put: _outlet(settings, put, problems))
        logging.getLogger().handlers[:] = [LineHandler(writer.put)]
        writer.start()
        writer.put_all(warning(problem) for problem in problems)
        return cls(writer)

    def channel(self, logger: str) -> Channel:
        return Channel(self._writer, logger)

    def reopen(self) -> None:
        """For programs that move log files away: the files are made anew, soon."""
        self._writer.reopen()

    def close(self) -> None:
        """Writes what waits; waits itself two seconds for that at most."""
        self._writer.close()


def _outlet(settings: LogSettings, put: Put, problems: list[str]) -> Outlet:
    if settings.document is not None:
        try:
            return ConfiguredOutlet(settings.document)
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            cause = f": {error.__cause__}" if error.__cause__ else ""
            problems.append(f"The logging configuration is not used: {error}{cause}. The log is as without it.")
            set_levels(settings.levels)
    folders = LogFolders(settings.folder, settings.metrics_folder)
    reports = FileReports(Console(sys.stderr.fileno()), put)
    console = Console(sys.stdout.fileno(), lambda lost: put(warning(_unread(lost))))
    return FileOutlet(folders, TextForm() if settings.form == "text" else json_form, console, reports)


def _unread(lost: int) -> str:
    return f"{lost} lines were not written to standard output, since nobody read it; the files have them."
