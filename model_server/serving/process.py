"""Worker processes: start, listen to what they print, end them with everything they started, say how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from model_server.config.server import ServerConfig
from model_server.errors import WorkersFailed
from model_server.serving.children import AdoptedChild
from model_server.serving.output import log_output
from model_server.serving.programs import start_program

# How long a worker that was asked to write its stack has for it.
_STACK_DUMP_S = 0.3
_EXIT_S = 5.0


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """How to start a worker.

    Attributes:
        name: `W-9000-model_1.0`, for logs.
        environment: all of it.
        model_dir: the unpacked archive.
        handler: as the archive names it.
        may_be_forked: that a copy of another process will do; False where it has to be a fresh one.
        options: more of the program's command line.
    """

    python: str
    name: str
    environment: Mapping[str, str]
    model_dir: str = ""
    handler: str = ""
    may_be_forked: bool = False
    options: tuple[str, ...] = ()


class WorkerProcess:
    """One process in a group of its own.

    The state here is the process handle and the tasks that read its output; both end in `reap`.
    """

    def __init__(self, process: asyncio.subprocess.Process | AdoptedChild, name: str) -> None:
        self._process = process
        self._name = name
        assert process.stdout is not None and process.stderr is not None
        self._readers = [
            asyncio.create_task(log_output(process.stdout, logging.INFO, f"{name}-stdout")),
            asyncio.create_task(log_output(process.stderr, logging.WARNING, f"{name}-stderr")),
        ]

    @classmethod
    async def start(cls, command: WorkerCommand) -> tuple[WorkerProcess, socket.socket]:
        """Starts a fresh process; returns it and our end of its socketpair."""
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: the current directory must not be on sys.path while the worker's own modules are imported.
            arguments = ["-P", "-m", "model_server.worker", "--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
            arguments += ["--name", command.name, *command.options]
            try:
                process = await start_program(
                    [command.python, *arguments], environment=command.environment, pass_fds=(theirs.fileno(),)
                )
            except OSError as error:
                ours.close()
                raise WorkersFailed(f"The worker process could not be started: {error.strerror}.") from error
            except BaseException:
                ours.close()
                raise
        return cls(process, command.name), ours

    @property
    def pid(self) -> int:
        return self._process.pid

    def memory_bytes(self) -> int:
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    async def dump_stack(self) -> None:
        """Has the worker write every thread's Python stack to its log, even while it is stuck in C code."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(_STACK_DUMP_S)

    async def wait(self) -> int:
        """Its exit status (negative: the signal), however long it lives."""
        return await self._process.wait()

    async def wait_exit(self) -> bool:
        """Waits a little for the process to end by itself; False when it does not."""
        try:
            async with asyncio.timeout(_EXIT_S):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def reap(self) -> int:
        """Kills the process and everything in its group; returns the exit status (negative: the signal)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        status = await self._process.wait()
        # A child of the worker in another group may hold the pipes open: what it prints later is nobody's concern.
        _, unfinished = await asyncio.wait(self._readers, timeout=1)
        for task in unfinished:
            task.cancel()
        if isinstance(self._process, AdoptedChild):
            self._process.close_pipes()
        return status


def inherited_environment(config: ServerConfig) -> dict[str, str]:
    """What all workers are given."""
    environment = config.visible_environment(os.environ)
    # A forked tokenizer deadlocks, and its threads would compete with the model's.
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    return environment | config.handler_environment


def describe_exit(status: int) -> str:
    """What an exit status means, in a sentence for people."""
    if status >= 0:
        return f"The worker process exited with status {status}."
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " Perhaps the machine is out of memory." if -status == signal.SIGKILL else ""
    return f"The worker process was ended by {name}.{hint}"
