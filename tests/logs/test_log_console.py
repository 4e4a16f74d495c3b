"""Standard output: read by nobody, by somebody slow, by somebody who has gone, or a file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_server.logs import console as module
from model_server.logs.console import Console


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def read_all(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    data = b""
    try:
        while piece := os.read(descriptor, 1 << 16):
            data += piece
    except BlockingIOError:
        pass
    return data


def test_a_reader_gets_everything(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    text = b"".join(b"line %d\n" % number for number in range(20_000))
    got = b""
    console.write(text, 20_000)
    while not console.flush():
        got += read_all(pipe[0])
    assert got + read_all(pipe[0]) == text


def test_nobody_reads(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PENDING_BYTES", 100_000)
    lost: list[int] = []
    console = Console(pipe[1], lost.append)
    begin_s = time.monotonic()
    for _ in range(100):
        console.write(b"x" * 9_999 + b"\n", 1)
    assert time.monotonic() - begin_s < 1
    assert not console.flush()
    assert lost == []
    got = b""
    while not console.flush():
        got += read_all(pipe[0])
    got += read_all(pipe[0])
    # Whole lines are missing, and exactly so many as it says.
    assert set(got.split(b"\n")) == {b"x" * 9_999, b""}
    assert lost == [100 - got.count(b"\n")]


def test_the_reader_has_gone(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    os.close(pipe[0])
    console.write(b"one\n", 1)
    console.write(b"two\n", 1)
    assert console.flush()


def test_at_the_end_a_reader_is_waited_for_a_while(pipe: tuple[int, int]) -> None:
    console = Console(pipe[1])
    console.write(b"x" * 200_000, 1)
    begin_s = time.monotonic()
    assert not console.flush(timeout_s=0.05)
    assert 0.05 <= time.monotonic() - begin_s < 1


def test_a_descriptor_that_does_not_block(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    console = Console(pipe[1])
    console.write(b"x" * 200_000, 1)
    got = b""
    while not console.flush():
        got += read_all(pipe[0])
    assert len(got + read_all(pipe[0])) == 200_000


def test_a_file(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    Console(descriptor).write(b"x" * 100_000, 1)
    os.close(descriptor)
    assert (tmp_path / "out").stat().st_size == 100_000


def test_a_full_disk_behind_standard_output_is_no_end() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    console = Console(descriptor)
    console.write(b"x\n", 1)
    assert console.flush()
    os.close(descriptor)
