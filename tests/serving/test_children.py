"""Processes that have become our children: how they end is known, and nothing of them stays."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psutil
import pytest
from serving_fakes import Run

from model_server.serving import children
from model_server.serving.children import AdoptedChild, adopt_orphans, bury_orphans

pytestmark = [
    pytest.mark.usefixtures("no_process_left", "orphans_are_ours"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans"),
]


@pytest.fixture
def orphans_are_ours() -> Iterator[None]:
    assert adopt_orphans()
    yield
    ctypes.CDLL(None).prctl(children._PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def orphan(shell: str, stdout: int = subprocess.DEVNULL) -> int:
    """Process id of `sh -c SHELL`, whose parent has ended."""
    read_fd, write_fd = os.pipe()
    code = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen(['sh', '-c', {shell!r}], stdin=subprocess.DEVNULL)\n"
        f"os.write({write_fd}, str(child.pid).encode())\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], stdout=stdout, pass_fds=(write_fd,), check=True)
    os.close(write_fd)
    with os.fdopen(read_fd) as told:
        return int(told.read())


@asynccontextmanager
async def adopted(shell: str) -> AsyncIterator[AdoptedChild]:
    pipes = [os.pipe(), os.pipe()]
    pid = orphan(shell, stdout=pipes[0][1])
    for _, write_fd in pipes:
        os.close(write_fd)
    readers = [os.fdopen(read_fd, "rb", buffering=0) for read_fd, _ in pipes]
    child = await AdoptedChild.adopt(pid, readers[0], readers[1])
    yield child
    child.close_pipes()
    await asyncio.sleep(0)  # only then the event loop closes them


def test_it_is_our_child(real_time: Run) -> None:
    async def main() -> None:
        async with adopted("exec sleep 600") as child:
            assert psutil.Process(child.pid).ppid() == os.getpid()
            child.send_signal(signal.SIGTERM)
            assert await child.wait() == -signal.SIGTERM

    real_time(main())


def test_its_status_and_its_output_are_known(real_time: Run) -> None:
    async def main() -> None:
        async with adopted("echo told; exit 3") as child:
            assert await child.stdout.read() == b"told\n"
            assert await child.stderr.read() == b""
            assert [await child.wait(), await child.wait()] == [3, 3]
            with pytest.raises(ProcessLookupError):
                child.send_signal(signal.SIGTERM)

    real_time(main())


def test_it_may_have_ended_before_we_look(real_time: Run) -> None:
    async def main() -> None:
        pid = orphan("exit 5")
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.005)
        assert await AdoptedChild(pid).wait() == 5

    real_time(main())


def test_a_wait_that_is_cancelled_does_not_lose_the_end(real_time: Run) -> None:
    async def main() -> None:
        async with adopted("exec sleep 600") as child:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(child.wait(), 0.01)
            child.send_signal(signal.SIGKILL)
            assert await child.wait() == -signal.SIGKILL

    real_time(main())


def test_orphans_are_buried_and_children_that_somebody_waits_for_are_not(
    real_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_SWEEP_S", 0.05)

    async def main() -> None:
        burying = asyncio.create_task(bury_orphans())
        ours = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.1; exit 4")
        zombies = [orphan("exit 1"), orphan("sleep 0.1"), orphan("exit 2")]
        while any(psutil.pid_exists(pid) for pid in zombies):
            await asyncio.sleep(0.005)
        assert await ours.wait() == 4
        burying.cancel()

    real_time(main())
