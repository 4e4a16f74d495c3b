"""Processes that somebody else has forked and that are our children all the same, and orphans that have become ours.

Both follow from our being the parent of orphans (`adopt_orphans`): a process whose parent ends becomes ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Set
from typing import IO, cast

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_SWEEP_S = 5.0


def adopt_orphans() -> bool:
    """Makes this process the parent of all descendants that lose theirs; False where the system has no such thing."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


async def bury_orphans() -> None:
    """Takes note, for ever, of the end of adopted processes, which nobody waits for and which would stay as zombies.

    Only those that are still there at the next look: for children of our own somebody waits.
    """
    seen: Set[int] = frozenset()
    while True:
        await asyncio.sleep(_SWEEP_S)
        ended = await asyncio.to_thread(_zombies)
        for pid in ended & seen:
            _bury(pid)
        seen = ended


def _bury(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _zombies() -> frozenset[int]:
    """Nearly always none, which one call tells; looking at every process of the machine takes milliseconds."""
    with contextlib.suppress(ChildProcessError):
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return frozenset()
    return frozenset(child.pid for child in psutil.Process().children() if _has_ended(child))


def _has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class AdoptedChild:
    """A child of ours that we have not started, as `asyncio.subprocess.Process` shows those that we have.

    The state here is the descriptor that tells of its end, open until then, and how it ended.

    Args:
        stdout, stderr: ends of its pipes, which are closed when they end or by `close_pipes`.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.stdout = asyncio.StreamReader()
        self.stderr = asyncio.StreamReader()
        self._pipes: list[asyncio.BaseTransport] = []
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._bury)

    @classmethod
    async def adopt(cls, pid: int, stdout: IO[bytes], stderr: IO[bytes]) -> AdoptedChild:
        child = cls(pid)
        for reader, pipe in ((child.stdout, stdout), (child.stderr, stderr)):
            await child._read(reader, pipe)
        return child

    async def _read(self, reader: asyncio.StreamReader, pipe: IO[bytes]) -> None:
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._pipes.append(transport)

    def send_signal(self, signum: signal.Signals) -> None:
        """Raises ProcessLookupError when it has ended."""
        if self._ended.done():
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, signum)

    async def wait(self) -> int:
        """Its exit status (negative: the signal)."""
        return await asyncio.shield(self._ended)

    def close_pipes(self) -> None:
        """Somebody else may hold the other ends: what they print then goes nowhere."""
        for pipe in self._pipes:
            cast(asyncio.ReadTransport, pipe).close()

    def _bury(self) -> None:
        self._loop.remove_reader(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self._ended.set_result(os.waitstatus_to_exitcode(status))
