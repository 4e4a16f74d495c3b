"""What a worker prints: every line is logged, up to a rate."""

from __future__ import annotations

import asyncio
import logging

import pytest

from model_server.serving.output import BURST_BYTES, BYTES_PER_S, LINE_BYTES, LONGEST_LINE_BYTES, Allowance, log_output


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "MODEL_LOG")


def printed(*pieces: bytes) -> None:
    """Logs what a worker prints in these pieces, which are read one by one."""

    async def main() -> None:
        stream = asyncio.StreamReader(limit=1 << 30)

        async def feed() -> None:
            for piece in pieces:
                stream.feed_data(piece)
                await asyncio.sleep(0)
            stream.feed_eof()

        await asyncio.gather(feed(), log_output(stream, logging.INFO, "W-9000-m_1.0-stdout"))

    asyncio.run(main())


def test_lines_however_they_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    printed(b"on", b"e\r\ntw", b"o\n\nno end")
    assert caplog.messages == ["one", "two", "", "no end"]
    assert {record.threadName for record in caplog.records} == {"W-9000-m_1.0-stdout"}


def test_a_line_without_end_comes_in_pieces(caplog: pytest.LogCaptureFixture) -> None:
    printed(b"x" * (3 * LONGEST_LINE_BYTES + 5))
    assert [len(message) for message in caplog.messages] == [LONGEST_LINE_BYTES] * 3 + [5]


def test_a_flood_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    line = b"y" * 999 + b"\n"
    total = 64 << 20
    printed(*[line * 64] * (total // len(line) // 64))
    kept = [message for message in caplog.messages if message.startswith("y")]
    assert BURST_BYTES // 1200 < len(kept) < 4 * BURST_BYTES // 1000
    begins = [record for record in caplog.records if "what is too much is dropped" in record.message]
    counts = [record for record in caplog.records if "were dropped" in record.message]
    assert len(begins) == len(counts) > 0
    assert {record.levelno for record in (*begins, *counts)} == {logging.WARNING}
    dropped = sum(int(record.message.split()[0]) for record in counts)
    # Line breaks are no output of their own where their lines were taken apart.
    assert total * 0.99 < dropped + 1000 * len(kept) <= total


def test_a_flood_of_empty_lines_has_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    printed(*[b"\n" * 65_536] * 20)
    assert 0 < caplog.messages.count("") < 3 * BURST_BYTES // LINE_BYTES


def test_others_have_their_turn_meanwhile() -> None:
    turns = 0

    async def main() -> None:
        nonlocal turns
        stream = asyncio.StreamReader(limit=1 << 30)
        stream.feed_data(b"\n" * 10_000)
        stream.feed_eof()
        logging_it = asyncio.create_task(log_output(stream, logging.INFO, "W"))
        while not logging_it.done():
            await asyncio.sleep(0)
            turns += 1

    asyncio.run(main())
    assert turns > 10_000 // 500


def test_what_was_used_up_comes_back() -> None:
    allowance = Allowance()
    assert not allowance.is_used_up(0.0)
    assert allowance.take([b"x" * (BURST_BYTES - LINE_BYTES), b"", b""]) == 1
    assert allowance.is_used_up(0.1)
    assert allowance.is_used_up(0.9)
    assert not allowance.is_used_up(1.1)
    assert allowance.take([b"x" * (BYTES_PER_S - LINE_BYTES)]) == 1


def test_it_does_not_fill_up_without_end() -> None:
    allowance = Allowance()
    assert not allowance.is_used_up(0.0)
    assert not allowance.is_used_up(1e6)
    assert allowance.take([b"x" * BURST_BYTES]) == 0
