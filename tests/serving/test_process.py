"""Worker processes: how they are started, what becomes of their output, how their end is told."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from serving_fakes import Run

from model_server.errors import WorkersFailed
from model_server.serving import process
from model_server.serving.process import WorkerCommand, WorkerProcess, describe_exit

pytestmark = pytest.mark.usefixtures("no_process_left")


def command(folder: Path, shell: str, environment: dict[str, str] | None = None) -> WorkerCommand:
    """A command whose `python` is a shell script."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{shell}\n")
    script.chmod(0o755)
    return WorkerCommand(str(script), "W-1-m_1.0", environment or {})


@asynccontextmanager
async def started(command: WorkerCommand) -> AsyncIterator[tuple[WorkerProcess, socket.socket]]:
    worker, sock = await WorkerProcess.start(command)
    with sock:
        try:
            yield worker, sock
        finally:
            await worker.reap()


def test_the_command_line_is_that_of_the_worker_program(
    tmp_path: Path, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with started(command(tmp_path, 'echo "$@"; echo "$SECRET"', {"SECRET": "told"})) as (worker, _):
            assert await worker.wait_exit()

    caplog.set_level(logging.INFO)
    real_time(main())
    fd = caplog.messages[0].split()[4]
    assert caplog.messages == [
        f"-P -m model_server.worker --fd {fd} --parent {os.getpid()} --name W-1-m_1.0",
        "told",
    ]


def test_only_its_environment_reaches_the_worker(
    tmp_path: Path, real_time: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with started(command(tmp_path, 'echo "[$OURS]"')) as (worker, _):
            await worker.wait_exit()

    monkeypatch.setenv("OURS", "leaked")
    caplog.set_level(logging.INFO)
    real_time(main())
    assert caplog.messages == ["[]"]


def test_the_socket_is_the_workers_and_ends_with_it(tmp_path: Path, real_time: Run) -> None:
    async def main() -> None:
        script = f'exec {sys.executable} -c \'import os, sys; os.write(int(sys.argv[5]), b"hello")\' "$@"'
        async with started(command(tmp_path, script)) as (_, sock):
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(sock, 100) == b"hello"
            assert await loop.sock_recv(sock, 100) == b""

    real_time(main())


def test_output_is_logged_line_by_line_by_stream(
    tmp_path: Path, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        shell = r"printf 'one\r\ntwo\n'; printf 'warn\n' >&2; printf 'no end'; printf '\377\033[2J\n\n'"
        async with started(command(tmp_path, shell)) as (worker, _):
            await worker.wait_exit()

    caplog.set_level(logging.INFO)
    real_time(main())
    lines = [(record.threadName, record.levelno, record.getMessage()) for record in caplog.records]
    assert [line for line in lines if line[0] == "W-1-m_1.0-stdout"] == [
        ("W-1-m_1.0-stdout", logging.INFO, text) for text in ("one", "two", "no end\\xff\x1b[2J", "")
    ]
    assert ("W-1-m_1.0-stderr", logging.WARNING, "warn") in lines
    assert {record.name for record in caplog.records} == {"MODEL_LOG"}


def test_a_line_without_end_is_logged_in_pieces(
    tmp_path: Path, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with started(command(tmp_path, "head -c 1000000 /dev/zero | tr '\\0' x", dict(os.environ))) as (
            worker,
            _,
        ):
            await worker.wait_exit()

    caplog.set_level(logging.INFO)
    real_time(main())
    assert all(len(message) < 17_000 for message in caplog.messages)
    assert sum(message.count("x") for message in caplog.messages) == 1_000_000


def test_reap_ends_the_whole_group(tmp_path: Path, real_time: Run) -> None:
    async def main() -> None:
        async with started(command(tmp_path, "sleep 600 & sleep 600", dict(os.environ))) as (worker, _):
            shell = psutil.Process(worker.pid)
            while len(shell.children()) < 2:
                await asyncio.sleep(0.005)
            children = shell.children()
            assert worker.memory_bytes() > 0
            assert await worker.reap() == -signal.SIGKILL
            assert await worker.reap() == -signal.SIGKILL
            assert worker.memory_bytes() == 0
            while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
                await asyncio.sleep(0.005)

    real_time(main())


def test_reap_tells_how_it_ended_by_itself(tmp_path: Path, real_time: Run) -> None:
    async def main() -> None:
        async with started(command(tmp_path, "exit 3")) as (worker, _):
            assert await worker.wait_exit()
            assert await worker.reap() == 3
            await worker.dump_stack()  # too late, and no error

    real_time(main())


def test_waiting_for_the_exit_has_an_end(tmp_path: Path, real_time: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with started(command(tmp_path, "exec sleep 600", dict(os.environ))) as (worker, _):
            assert not await worker.wait_exit()

    monkeypatch.setattr(process, "_EXIT_S", 0.05)
    real_time(main())


@pytest.mark.parametrize(("python", "reason"), [("missing", "No such file"), ("not_executable", "Permission denied")])
def test_what_cannot_be_started_is_a_workers_failed(tmp_path: Path, real_time: Run, python: str, reason: str) -> None:
    async def main() -> None:
        (tmp_path / "not_executable").write_text("")
        with pytest.raises(WorkersFailed, match=reason):
            await WorkerProcess.start(WorkerCommand(str(tmp_path / python), "W", {}))

    real_time(main())


def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path, real_time: Run) -> None:
    async def main() -> None:
        starting = asyncio.create_task(WorkerProcess.start(command(tmp_path, "exec sleep 600", dict(os.environ))))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    real_time(main())


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "The worker process exited with status 0."),
        (3, "The worker process exited with status 3."),
        (-9, "The worker process was ended by SIGKILL. Perhaps the machine is out of memory."),
        (-11, "The worker process was ended by SIGSEGV."),
        (-15, "The worker process was ended by SIGTERM."),
        (-99, "The worker process was ended by signal 99."),
    ],
)
def test_an_exit_status_in_words(status: int, text: str) -> None:
    assert describe_exit(status) == text
