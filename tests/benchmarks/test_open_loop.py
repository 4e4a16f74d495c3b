"""The open loop counts from when a request was due, and loses none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks.load import write_bodies
from benchmarks.open_loop import read_bodies, run

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PLAIN = {"Content-Type": "text/plain"}
Answer = Callable[[bytes], Awaitable[bytes]]


def measured(answer: Answer, rate: float, seconds: float, bodies: list[bytes] | None = None) -> dict[str, float]:
    """What the loop finds of a server that gives `answer` to each body; b"" closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                said = await answer(await reader.readexactly(length))
                if not said:
                    break
                writer.write(said)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> dict[str, float]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await run(f"http://127.0.0.1:{port}/predict", rate, seconds, PLAIN, bodies or [b"x"])
        finally:
            server.close()

    return asyncio.run(main())


async def at_once(_: bytes) -> bytes:
    return OK


def test_a_server_that_keeps_up() -> None:
    found = measured(at_once, 100, 0.5)
    assert found["errors"] == 0
    assert found["requests_per_s"] == pytest.approx(100, rel=0.2)
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]


def test_waiting_behind_others_counts() -> None:
    """One request at a time, 20 ms each: at 100 a second the last of 50 waits for half a second."""
    turn = asyncio.Lock()

    async def one_by_one(_: bytes) -> bytes:
        async with turn:
            await asyncio.sleep(0.02)
        return OK

    found = measured(one_by_one, 100, 0.5)
    assert found["errors"] == 0
    assert found["requests_per_s"] < 55
    assert found["p99_ms"] > 450
    assert found["p50_ms"] > 200


def test_errors_are_no_answers() -> None:
    async def every_second(body: bytes) -> bytes:
        return OK if body == b"good" else OK.replace(b"200 OK", b"503 Busy")

    found = measured(every_second, 200, 0.2, [b"good", b"bad"])
    assert found["errors"] == 20


def test_broken_connections_are_errors() -> None:
    async def never(_: bytes) -> bytes:
        return b""

    found = measured(never, 100, 0.1)
    assert found["errors"] == 10
    assert math.isnan(found["p50_ms"])


def test_answers_that_come_in_pieces() -> None:
    async def long(_: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000

    assert measured(long, 50, 0.2)["errors"] == 0


def test_nobody_listens() -> None:
    found = asyncio.run(run("http://127.0.0.1:1/predict", 100, 0.1, PLAIN, [b"x"]))
    assert found["errors"] == 10


def test_bodies_are_read_as_they_were_written(tmp_path: Path) -> None:
    bodies = [b"", b"a\nb", bytes(range(256))]
    write_bodies(bodies, tmp_path / "bodies")
    assert read_bodies(tmp_path / "bodies") == bodies
