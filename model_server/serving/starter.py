"""Starts workers: as copies of the template where that is possible, as fresh processes where it is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import IO

from model_server.errors import WorkersFailed
from model_server.serving.children import AdoptedChild
from model_server.serving.process import WorkerCommand, WorkerProcess
from model_server.serving.template import Template, TemplateLost
from model_server.wire.forking import ForkRequest

log = logging.getLogger(__name__)

# A template that has just ended is started again for the second.
_ATTEMPTS = 2


class WorkerStarter:
    """The one way to a worker process.

    Args:
        template: None: every worker is a fresh process.
    """

    def __init__(self, template: Template | None) -> None:
        self._template = template

    async def start(self, command: WorkerCommand) -> tuple[WorkerProcess, socket.socket]:
        """Starts a worker; returns it and our end of its socketpair. Raises WorkersFailed."""
        template = self._template if command.may_be_forked else None
        for _ in range(_ATTEMPTS):
            if template is None or not template.is_usable:
                break
            try:
                return await _fork(template, command)
            except TemplateLost as error:
                log.warning("The template of workers was lost while %s was started: %s", command.name, error)
            except OSError as error:
                raise WorkersFailed(f"The worker process could not be started: {error}.") from error
        return await WorkerProcess.start(command)


async def _fork(template: Template, command: WorkerCommand) -> tuple[WorkerProcess, socket.socket]:
    forking = asyncio.create_task(_make(template, command))
    try:
        return await asyncio.shield(forking)
    except asyncio.CancelledError:
        # The template makes it all the same.
        with contextlib.suppress(TemplateLost, OSError):
            process, sock = await forking
            sock.close()
            await process.reap()
        raise


async def _make(template: Template, command: WorkerCommand) -> tuple[WorkerProcess, socket.socket]:
    request = ForkRequest(command.name, command.environment, command.model_dir, command.handler)
    ours, theirs = socket.socketpair()
    try:
        with theirs, _Pipe() as stdout, _Pipe() as stderr:
            pid = await template.fork(request, [theirs.fileno(), stdout.write_fd, stderr.write_fd])
            try:
                child = await AdoptedChild.adopt(pid, stdout.reader(), stderr.reader())
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                raise
    except BaseException:
        ours.close()
        raise
    return WorkerProcess(child, command.name), ours


class _Pipe:
    """Both ends are closed in the end, but for the one that was taken."""

    def __enter__(self) -> _Pipe:
        self._read_fd: int | None
        self._read_fd, self.write_fd = os.pipe()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.write_fd)
        if self._read_fd is not None:
            os.close(self._read_fd)

    def reader(self) -> IO[bytes]:
        """The reading end, from now on its owner's."""
        assert self._read_fd is not None
        fd, self._read_fd = self._read_fd, None
        return os.fdopen(fd, "rb", buffering=0)
