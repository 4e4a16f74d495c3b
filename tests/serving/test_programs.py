"""Helper programs: what they print, how they end, that nothing of them stays."""

import asyncio
import os
from pathlib import Path

import pytest
from processes import is_gone
from servers import eventually
from serving_fakes import Run

from model_server.serving.programs import run_program

pytestmark = pytest.mark.usefixtures("no_process_left")


async def run(script: str, lines: list[str], folder: Path = Path("/"), **variables: str) -> int:
    environment = {"PATH": os.environ["PATH"], **variables}
    return await run_program(["sh", "-c", script], folder=folder, environment=environment, on_line=lines.append)


@pytest.mark.parametrize(
    ("script", "status", "expected"),
    [
        ("echo a; echo b >&2; printf 'c\\r\\n\\nd'", 0, ["a", "b", "c", "", "d"]),
        ("exit 3", 3, []),
        ("kill -9 $$", -9, []),
        ("printf '\\377\\n'", 0, ["\\xff"]),
        ("read line || echo no input", 0, ["no input"]),
        ("pwd; echo $OWN; echo $HOME", 0, ["/", "mine", ""]),
        ("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end", 0, ["x" * (1 << 14), "end"]),
    ],
)
def test_lines_and_status(real_time: Run, script: str, status: int, expected: list[str]) -> None:
    async def main() -> None:
        lines: list[str] = []
        assert await run(script, lines, OWN="mine") == status
        assert lines == expected

    real_time(main())


@pytest.mark.parametrize("script", ["echo $$; exec sleep 600", "sleep 600 & echo $!", "sleep 600 >&- 2>&- & echo $!"])
def test_what_it_started_ends_with_it(real_time: Run, script: str) -> None:
    """The second one holds the pipe open: only the end of the wait ends it."""

    async def main() -> None:
        lines: list[str] = []
        running = asyncio.create_task(run(script, lines))
        while not lines:
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.wait([running])
        eventually(lambda: is_gone(int(lines[0])), "it is gone")

    real_time(main())


@pytest.mark.parametrize("steps", range(6))
def test_one_that_is_cancelled_while_it_starts(real_time: Run, steps: int) -> None:
    async def main() -> None:
        running = asyncio.create_task(run("exec sleep 600", []))
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    real_time(main())


def test_one_that_cannot_be_started(real_time: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await run("true", [], folder=tmp_path / "missing")

    real_time(main())
