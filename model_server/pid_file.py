"""The file that names the running server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from model_server.config.errors import ConfigError

# Texts that scripts made for TorchServe look for.
ALREADY_RUNNING = "TorchServe is already running, please use torchserve --stop to stop TorchServe."
ORPHAN_PID_FILE = "Removing orphan pid file."

_SERVER_NAMES = ("modelserver", "model_server.cli")


class PidFile:
    """The file that names the running server; by default where TorchServe keeps it."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(tempfile.gettempdir()) / ".model_server.pid"

    def running(self) -> psutil.Process | None:
        """The server that the file names. A file left behind by one that is gone is removed.

        Raises:
            ConfigError: the file is not ours to judge.
        """
        content = self._read()
        if content is None:
            return None
        process = _server_process(content)
        if process is None:
            print(ORPHAN_PID_FILE)
            self._remove()
        return process

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Names this process as the server for as long as the block runs.

        Raises:
            ConfigError: a server is running already.
        """
        if self.running():
            raise ConfigError(ALREADY_RUNNING)
        self._create()
        try:
            yield
        finally:
            self.release(os.getpid())

    def release(self, pid: int) -> None:
        """Removes the file if it names this process: another server may have begun meanwhile."""
        if self._read() == str(pid):
            self._remove()

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _create(self) -> None:
        # Written elsewhere and linked: the file appears whole, private, and never in place of another.
        try:
            descriptor, draft = tempfile.mkstemp(dir=self.path.parent)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}. Name another --pid-file.") from error
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(str(os.getpid()))
            os.link(draft, self.path)
        except FileExistsError:
            raise ConfigError(ALREADY_RUNNING) from None
        finally:
            Path(draft).unlink()

    def _read(self) -> str | None:
        try:
            # The folder is open to everybody: a link could lead anywhere, a pipe would wait for ever.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}. Remove it or set TMPDIR.") from error
        with os.fdopen(descriptor, errors="replace") as file:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise ConfigError(f"{self.path} belongs to another user. Remove it or set TMPDIR.")
            return file.read(32).strip()


def _server_process(pid: str) -> psutil.Process | None:
    """The process, if its command line is a server's: numbers are used again after a crash or in a new container."""
    if not pid.isdecimal() or int(pid) == os.getpid():
        return None
    try:
        process = psutil.Process(int(pid))
        words = [Path(word).name for word in process.cmdline()]
    except (psutil.Error, OverflowError):
        return None
    return process if any(name in words for name in _SERVER_NAMES) else None
