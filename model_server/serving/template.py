"""The frontend's side of the template, the process that workers are forked from."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_server.errors import WorkersFailed
from model_server.serving.process import WorkerCommand, WorkerProcess
from model_server.wire.forking import ForkReply, ForkRequest, decode_reply, encode_line
from model_server.wire.frames import WireError

log = logging.getLogger(__name__)

# Importing everything takes seconds, on a slow disk many.
_REPLY_TIMEOUT_S = 120.0
_READ_BYTES = 1 << 16
# After so many that have ended without having made a worker there will be no other.
_MOST_FUTILE_LIVES = 3
_NAME = "worker-template"


class TemplateLost(Exception):
    """The template has ended, or does not answer and was ended."""


@dataclass(slots=True, eq=False)
class _Life:
    """One process, from its start to its end."""

    process: WorkerProcess
    control: socket.socket


class Template:
    """Keeps a template running from its first use on.

    The state here is the process that runs, and what it has imported, which the next one imports at its start.

    Args:
        python: the interpreter.
        environment: all of the template's; each worker gets its own.
        archives: the first process imports what their workers are going to need before it is asked for one.
    """

    def __init__(self, python: str, environment: Mapping[str, str], archives: Sequence[Path] = ()) -> None:
        # Threads that numpy starts in the template would be missing in its workers.
        self._environment = {**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._python = python
        self._archives = archives
        self._turn = asyncio.Lock()
        self._life: _Life | None = None
        self._watch: asyncio.Task[None] | None = None
        self._preloaded: tuple[str, ...] = ()
        self._futile_lives = 0
        self._is_closed = False

    @property
    def is_usable(self) -> bool:
        """False when it has turned out that there can be none."""
        return not self._is_closed and self._futile_lives < _MOST_FUTILE_LIVES

    async def warm(self) -> None:
        """Starts the process if there is none. Raises TemplateLost when it cannot be started."""
        async with self._turn:
            await self._living()

    async def fork(self, request: ForkRequest, fds: Sequence[int]) -> int:
        """Has a worker made; returns its process id. It is our child, and has copies of `fds`.

        Raises:
            TemplateLost: there is no template any more, and no worker.
            OSError: the template is there, and there is no room for another process.
        """
        async with self._turn:
            life = await self._living()
            try:
                async with asyncio.timeout(_REPLY_TIMEOUT_S):
                    reply = await self._ask(life, request, fds)
            except (OSError, WireError, TimeoutError) as error:
                await self._end(life)
                raise TemplateLost(str(error) or type(error).__name__) from error
        self._preloaded = reply.preloaded or self._preloaded
        if reply.pid is None:
            raise OSError(reply.error)
        self._futile_lives = 0
        return reply.pid

    async def close(self) -> None:
        self._is_closed = True
        if self._life is not None:
            await self._end(self._life)
        if self._watch is not None:
            self._watch.cancel()

    async def _ask(self, life: _Life, request: ForkRequest, fds: Sequence[int]) -> ForkReply:
        loop = asyncio.get_running_loop()
        line = encode_line(request)
        # The buffer is empty, since everything before was answered.
        sent = socket.send_fds(life.control, [line], list(fds))
        await loop.sock_sendall(life.control, line[sent:])
        answer = b""
        while not answer.endswith(b"\n"):
            data = await loop.sock_recv(life.control, _READ_BYTES)
            if not data:
                raise ConnectionResetError("The template has ended.")
            answer += data
        return decode_reply(answer)

    async def _living(self) -> _Life:
        if not self.is_usable:
            raise TemplateLost("The template is not used any longer.")
        if self._life is None:
            self._life = await self._start()
            self._watch = asyncio.create_task(self._watch_over(self._life), name=_NAME)
        return self._life

    async def _start(self) -> _Life:
        options = ["--template", "--preload", ",".join(self._preloaded)]
        if not self._preloaded:
            options += [word for archive in self._archives for word in ("--archive", str(archive))]
        try:
            process, control = await WorkerProcess.start(
                WorkerCommand(self._python, _NAME, self._environment, options=tuple(options))
            )
        except WorkersFailed as error:
            raise TemplateLost(error.message) from error
        control.setblocking(False)
        self._futile_lives += 1
        return _Life(process, control)

    async def _watch_over(self, life: _Life) -> None:
        """Replaces a template that has ended by itself: the next worker may be wanted soon."""
        status = await life.process.wait()
        await life.process.reap()
        life.control.close()
        if self._life is life:
            self._life = None
        if self._is_closed:
            return
        if not self.is_usable:
            log.error("The template of workers ended with status %d again: workers are started one by one.", status)
            return
        log.warning("The template of workers ended with status %d and is started again.", status)
        with contextlib.suppress(TemplateLost):
            await self.warm()

    async def _end(self, life: _Life) -> None:
        await life.process.reap()
        if self._life is life:
            self._life = None
