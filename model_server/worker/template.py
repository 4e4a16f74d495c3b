"""The template: a process that imports the heavy libraries once and forks workers that have them.

It forks twice, and the process in between ends at once: so the worker becomes a child of the frontend, which has made
itself the parent of orphans (PR_SET_CHILD_SUBREAPER). The template may die without harm to any worker, and the frontend
waits for its workers itself.

A fork copies one thread, all descriptors and all memory. Hence nothing here starts a thread, opens what stays open, or
touches a device, and a new worker draws new random numbers, takes its own environment and number of threads, and lets
go of the template's socket.
"""

from __future__ import annotations

import gc
import os
import random
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model_server.wire.forking import DESCRIPTORS, ForkReply, ForkRequest, decode_request, encode_line
from model_server.worker import threads
from model_server.worker.preload import import_quietly, modules_for, modules_of_archive

_READ_BYTES = 1 << 16
_PID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Birth:
    """What a process that has just been forked is to do: be a worker on this socket.

    Attributes:
        hides: names of the archive's modules that those which are imported already would stand in front of.
    """

    fd: int
    name: str
    hides: frozenset[str]


class Template:
    """The state here is what has been imported, and what is on the way in.

    Args:
        control: our end of the socket to the frontend.
        preload: what an earlier template had imported.
        archives: packed ones or folders that are going to be served.
    """

    def __init__(self, control: socket.socket, preload: Sequence[str], archives: Sequence[Path]) -> None:
        self._control = control
        self._own = packages()
        self._preloaded: dict[str, bool] = {}
        self._import(preload)
        for archive in archives:
            self._import(modules_of_archive(archive))
        self._received = b""

    def run(self) -> Birth | None:
        """Forks workers until the frontend is gone. In a worker, and only there, it returns what that is to do."""
        while (order := self._receive()) is not None:
            request, fds = order
            self._import(modules_for(request.handler, Path(request.model_dir)))
            try:
                pid = fork_twice()
                reply = ForkReply(pid, preloaded=tuple(name for name, is_there in self._preloaded.items() if is_there))
            except OSError as error:
                reply = ForkReply(None, str(error))
            else:
                if pid == 0:
                    return self._begin_work(request, fds)
            for fd in fds:
                os.close(fd)
            self._control.sendall(encode_line(reply))
        return None

    def _receive(self) -> tuple[ForkRequest, list[int]] | None:
        fds: list[int] = []
        while b"\n" not in self._received:
            data, received, _, _ = socket.recv_fds(self._control, _READ_BYTES, DESCRIPTORS)
            if not data:
                return None
            fds += received
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return decode_request(line), fds

    def _import(self, names: Sequence[str]) -> None:
        fresh = [name for name in names if name not in self._preloaded]
        for name in fresh:
            self._preloaded[name] = import_quietly(name)
        if fresh:
            gc.collect()
            gc.freeze()  # the collector would write to pages that workers share

    def _begin_work(self, request: ForkRequest, fds: Sequence[int]) -> Birth:
        self._control.close()
        os.setsid()  # first: what ends the template's group must not end this
        fd, stdout, stderr = fds
        for source, target in ((stdout, 1), (stderr, 2)):
            os.dup2(source, target)
            os.close(source)
        os.environ.clear()
        os.environ.update(request.environment)
        _renew_random_numbers()
        threads.apply_environment()
        hides = (packages() - self._own) & _names_in(Path(request.model_dir))
        return Birth(fd, request.name, hides)


def packages() -> frozenset[str]:
    """Top-level names that are imported."""
    return frozenset(name.partition(".")[0] for name in sys.modules)


def _names_in(folder: Path) -> frozenset[str]:
    """What `import` would find there."""
    return frozenset(
        entry.name.partition(".")[0]
        for entry in folder.iterdir()
        if entry.suffix in (".py", ".so", ".pyc") or (entry / "__init__.py").exists()
    )


def fork_twice() -> int:
    """Process id of the grandchild, which is nobody's child any more but the reaper's; 0 in the grandchild.

    Raises OSError when there is no room for another process.
    """
    read_fd, write_fd = os.pipe()
    between = os.fork()
    if between == 0:
        _fork_and_tell(write_fd)
        os.close(read_fd)
        return 0
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as reader:
        told = reader.read(_PID_BYTES)
    os.waitpid(between, 0)
    if not told:
        raise BlockingIOError("There is no room for another process.")
    return int.from_bytes(told)


def _fork_and_tell(write_fd: int) -> None:
    """Returns in the new child, when its parent has ended."""
    between = os.getpid()
    try:
        if pid := os.fork():
            os.write(write_fd, pid.to_bytes(_PID_BYTES))
            os._exit(0)
    except OSError:
        os._exit(1)
    os.close(write_fd)
    while os.getppid() == between:
        time.sleep(0.0001)


def _renew_random_numbers() -> None:
    """Workers of one template would all draw the same ones."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.seed()
