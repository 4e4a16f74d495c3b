"""Helper programs that run to their end: their lines are handed over as they come, nothing of them stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

_READ_BYTES = 1 << 16
# Of a line without end only this much is kept.
_LONGEST_LINE_BYTES = 1 << 14
_EXIT_S = 5.0


async def run_program(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    pass_fds: Collection[int] = (),
) -> int:
    """Runs a program in `folder` and returns its exit status (negative: the signal).

    Whatever ends the wait, a cancellation as well, also ends the program and everything in its process group.

    Args:
        environment: all of it.
        on_line: is given every line of stdout and stderr, without its end.
        pass_fds: descriptors that the program inherits.

    Raises:
        OSError: it cannot be started.
    """
    process = await start_program(
        arguments, environment=environment, pass_fds=pass_fds, folder=folder, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        async for line in _lines(process.stdout):
            on_line(line.decode(errors="backslashreplace"))
        return await process.wait()
    finally:
        await _end(process)


async def start_program(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    pass_fds: Collection[int] = (),
    folder: Path | None = None,
    stderr: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Starts a program in a session of its own, with pipes for what it prints. Raises OSError."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *arguments,
            cwd=folder,
            env=dict(environment),
            pass_fds=tuple(pass_fds),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # uvloop forgets a process when it is cancelled while it starts one.
        await _end(await starting)
        raise


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    while data := await stream.read(_READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line[-_LONGEST_LINE_BYTES:].rstrip(b"\r")
        rest = rest[-_LONGEST_LINE_BYTES:]
    if rest:
        yield rest


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # What left the group may hold the pipe open: it is nobody's concern.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.communicate(), _EXIT_S)
