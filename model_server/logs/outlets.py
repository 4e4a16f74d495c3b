"""Where the lines go when the operator has not said otherwise: the console and TorchServe's five files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_server.logs import ACCESS_LOG, MODEL_LOG, MODEL_METRICS, TS_METRICS
from model_server.logs.console import Console
from model_server.logs.files import LogFile
from model_server.logs.lines import ANNOUNCEMENT, Form, Line
from model_server.logs.writer import warning

# After formatting so many lines the thread lets the event loop have its turn.
_SLICE_LINES = 256
# How long a console that nobody reads is waited for at the end.
_LAST_WORDS_S = 0.5


@dataclass(frozen=True, slots=True)
class LogFolders:
    logs: Path
    metrics: Path


class FileOutlet:
    """Everything goes to the console and to ts_log.log; loggers with a file of their own to that one as well."""

    def __init__(self, folders: LogFolders, form: Form, console: Console, reports: FileReports) -> None:
        self._form = form
        self._console = console
        self._reports = reports
        self._server_log = LogFile(folders.logs / "ts_log.log", reports)
        # Loggers with a file of their own. Their lines have the short form in it, except those of models.
        self._own: Mapping[str, LogFile] = {
            ACCESS_LOG: LogFile(folders.logs / "access_log.log", reports),
            MODEL_LOG: LogFile(folders.logs / "model_log.log", reports),
            TS_METRICS: LogFile(folders.metrics / "ts_metrics.log", reports),
            MODEL_METRICS: LogFile(folders.metrics / "model_metrics.log", reports),
        }
        for file in self._files():
            file.open()

    def write(self, lines: Sequence[Line]) -> None:
        """All at once: after every write this thread waits for the interpreter, and then the event loop for it."""
        everything: list[str] = []
        own: dict[str, list[str]] = {logger: [] for logger in self._own}
        for start in range(0, len(lines), _SLICE_LINES):
            self._format(lines[start : start + _SLICE_LINES], everything, own)
            time.sleep(0)
        if everything:
            data = _encoded(everything)
            self._console.write(data, len(everything))
            self._server_log.write(data, len(everything))
        for logger, texts in own.items():
            if texts:
                self._own[logger].write(_encoded(texts), len(texts))

    def _format(self, lines: Sequence[Line], everything: list[str], own: Mapping[str, list[str]]) -> None:
        form = self._form
        for line in lines:
            logger = line.logger
            if logger == ANNOUNCEMENT:
                self._console.write(_encoded([line.message, "\n"]), 1)
                continue
            full, short = form(line)
            everything.append(full)
            texts = own.get(logger)
            if texts is not None:
                texts.append(full if logger == MODEL_LOG else short)

    def flush(self) -> bool:
        is_console_flushed = self._console.flush()
        return self._reports.flush() and is_console_flushed

    def reopen(self) -> None:
        for file in self._files():
            file.reopen()

    def close(self) -> None:
        self._console.flush(_LAST_WORDS_S)
        for file in self._files():
            file.close()

    def _files(self) -> list[LogFile]:
        return [self._server_log, *self._own.values()]


class FileReports:
    """Says on standard error, once, that a folder's files cannot be written, and in the log that they can again.

    The state here is what has been said: the folders and reasons.
    """

    def __init__(self, errors: Console, put: Callable[[Line], None]) -> None:
        self._errors = errors
        self._put = put
        self._told: set[tuple[Path, int | None]] = set()

    def failed(self, path: Path, error: OSError) -> None:
        reason = path.parent, error.errno
        if reason in self._told:
            return
        self._told.add(reason)
        text = f"Cannot write {path.name} in {path.parent}: {error.strerror}. The server goes on; its log is on stdout."
        self._errors.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n".encode(errors="backslashreplace"), 1)

    def recovered(self, path: Path, lost: int) -> None:
        self._told = {reason for reason in self._told if reason[0] != path.parent}
        self._put(warning(f"{path.name} is written again; it misses {lost} lines."))

    def not_archived(self, path: Path, error: OSError) -> None:
        reason = path, error.errno
        if reason not in self._told:
            self._told.add(reason)
            self._put(warning(f"{path.name} cannot be archived in {path.parent}: {error.strerror}. It grows on."))

    def flush(self) -> bool:
        return self._errors.flush()


def _encoded(texts: Sequence[str]) -> bytes:
    return "".join(texts).encode("utf-8", "backslashreplace")
