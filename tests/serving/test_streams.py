"""Answers in parts: order, ends, and the room there is for what nobody has read yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from serving_fakes import Run, new_job

from model_server.errors import HandlerFailed, ServerError, WorkerDied
from model_server.serving.streams import Stream
from model_server.wire.messages import STREAM_WINDOW_BYTES, Chunk, ItemResult, window_share

MB = 1 << 20
FAR_BEHIND = 64 * MB


@dataclass
class Told:
    """What a stream told the worker."""

    credits: list[int] = field(default_factory=list)
    cancels: list[bool] = field(default_factory=list)


def new_stream(told: Told | None = None, *parts: bytes) -> Stream:
    told = told or Told()
    first = Chunk(1, 0, 207, "Many", [("x-a", "1")], b"")
    stream = Stream(first, told.credits.append, lambda: told.cancels.append(True))
    for part in parts:
        stream.feed(part)
    return stream


async def read(stream: Stream) -> list[bytes]:
    return [bytes(part) async for part in stream]


async def read_some(stream: Stream, number: int) -> list[bytes]:
    """So many parts; the last one counts as taken when the next one is asked for."""
    parts: list[bytes] = []
    async for part in stream:
        if len(parts) == number:
            break
        parts.append(bytes(part))
    return parts


def test_status_reason_and_headers_are_those_of_the_first_part(virtual_time: Run) -> None:
    async def main() -> None:
        stream = new_stream()
        assert (stream.status, stream.reason, stream.headers) == (207, "Many", [("x-a", "1")])

    virtual_time(main())


def test_parts_come_in_order_the_result_last_and_empty_ones_not_at_all(virtual_time: Run) -> None:
    async def main() -> None:
        stream = new_stream(None, b"a", b"", b"b")
        stream.finish(ItemResult("r", body=b"end"))
        stream.feed(b"late")
        stream.finish(ItemResult("r", body=b"late"))
        assert await read(stream) == [b"a", b"b", b"end"]

    virtual_time(main())


def test_a_reader_waits_for_what_comes(virtual_time: Run) -> None:
    async def main() -> None:
        stream = new_stream()
        reading = asyncio.create_task(read(stream))
        for part in (b"a", b"b"):
            await asyncio.sleep(1)
            stream.feed(part)
        await asyncio.sleep(1)
        assert not reading.done()
        stream.finish(ItemResult("r"))
        assert await reading == [b"a", b"b"]

    virtual_time(main())


@pytest.mark.parametrize("waits", [True, False])
def test_an_error_comes_after_the_parts_before_it(waits: bool, virtual_time: Run) -> None:
    async def main() -> None:
        stream = new_stream(None, b"a")
        reading = asyncio.create_task(read(stream))
        if waits:
            await asyncio.sleep(1)
        stream.fail(WorkerDied("first"))
        stream.fail(WorkerDied("second"))
        stream.feed(b"late")
        with pytest.raises(WorkerDied, match="first"):
            await reading

    virtual_time(main())


def test_what_the_worker_decided_is_the_error(virtual_time: Run) -> None:
    async def main() -> None:
        stream = new_stream(None, b"a")
        stream.finish(ItemResult("r", 507, error="Out of resources"))
        assert await read_some(new_stream(None, b"a", b"b"), 1) == [b"a"]
        with pytest.raises(HandlerFailed, match="Out of resources") as caught:
            await read(stream)
        assert caught.value.status == 507

    virtual_time(main())


# --- whoever does not read on ---


def test_an_abandoned_stream_tells_the_worker_once_and_keeps_nothing(virtual_time: Run) -> None:
    async def main() -> None:
        told = Told()
        stream = new_stream(told, b"a")
        stream.abandon()
        stream.abandon()
        stream.feed(b"late")
        assert told.cancels == [True]
        assert stream.is_over and await read(stream) == []

    virtual_time(main())


@pytest.mark.parametrize("error", [None, "no"])
def test_a_stream_that_has_ended_is_not_cancelled(error: str | None, virtual_time: Run) -> None:
    async def main() -> None:
        told = Told()
        stream = new_stream(told, b"a")
        stream.finish(ItemResult("r", body=b"end", error=error))
        stream.abandon()
        assert told.cancels == []

    virtual_time(main())


# --- room ---


def test_the_worker_is_told_in_quarters_of_its_window_what_the_client_took(virtual_time: Run) -> None:
    async def main() -> None:
        told = Told()
        part = bytes(STREAM_WINDOW_BYTES // 8)
        stream = new_stream(told, *[part] * 8)
        await read_some(stream, 1)
        assert told.credits == []
        await read_some(stream, 4)
        assert told.credits == [len(part) * 2] * 2
        stream.finish(ItemResult("r"))
        await read(stream)
        assert sum(told.credits) == len(part) * 4, "when the answer is there, nobody waits for room"

    virtual_time(main())


def test_small_parts_take_a_share_of_the_window_that_is_larger_than_they_are(virtual_time: Run) -> None:
    async def main() -> None:
        told = Told()
        stream = new_stream(told, *[b"x"] * 128)
        assert stream.waits_for_client
        await read_some(stream, 128 // 4)
        assert told.credits == [STREAM_WINDOW_BYTES // 4]

    virtual_time(main())


def test_a_worker_that_waits_always_gets_room_in_the_end(virtual_time: Run) -> None:
    """The worker's rule, played here: it sends while less than a window is out, whatever the size of its parts."""

    async def main() -> None:
        for size in (1000, STREAM_WINDOW_BYTES // 3, STREAM_WINDOW_BYTES - 1, 3 * STREAM_WINDOW_BYTES):
            told = Told()
            stream = new_stream(told)
            reading, sent, fed = asyncio.create_task(read(stream)), 0, 0
            while sent < 5 * STREAM_WINDOW_BYTES:
                while sent - sum(told.credits) < STREAM_WINDOW_BYTES:
                    stream.feed(bytes(size))
                    sent += window_share(bytes(size))
                    fed += size
                assert stream.waits_for_client
                await asyncio.sleep(1)
                assert sent - sum(told.credits) < STREAM_WINDOW_BYTES
            stream.finish(ItemResult("r"))
            assert sum(map(len, await reading)) == fed

    virtual_time(main())


def test_a_stream_that_is_over_waits_for_nobody(virtual_time: Run) -> None:
    async def main() -> None:
        stream = new_stream(None, bytes(STREAM_WINDOW_BYTES))
        assert stream.waits_for_client
        stream.abandon()
        assert not stream.waits_for_client
        assert not new_stream(None, b"little").waits_for_client

    virtual_time(main())


def test_a_client_that_is_far_behind_is_given_up(virtual_time: Run) -> None:
    async def main() -> None:
        told = Told()
        stream = new_stream(told, bytes(FAR_BEHIND), b"x")
        assert not stream.is_over
        stream.feed(b"one too many")
        assert stream.is_over and told.cancels == [True]
        with pytest.raises(ServerError, match="too slowly"):
            await read(stream)

    virtual_time(main())


def test_a_large_part_is_no_reason_to_give_a_client_up(virtual_time: Run) -> None:
    async def main() -> None:
        stream = new_stream(None, bytes(FAR_BEHIND + 1))
        stream.finish(ItemResult("r", body=bytes(FAR_BEHIND + 1)))
        assert list(map(len, await read(stream))) == [FAR_BEHIND + 1] * 2

    virtual_time(main())


# --- jobs ---


def test_a_job_with_a_stream_is_over_when_the_stream_is(virtual_time: Run) -> None:
    async def main() -> None:
        job, stream = new_job(), new_stream(None, b"a")
        job.begin(stream)
        assert await job.future is stream and not job.is_over
        job.answer(ItemResult("r", body=b"end"))
        assert job.is_over
        job.fail(WorkerDied("late"))
        assert await read(stream) == [b"a", b"end"]

    virtual_time(main())


def test_a_failure_of_a_job_cuts_its_stream(virtual_time: Run) -> None:
    async def main() -> None:
        job, stream = new_job(), new_stream()
        job.begin(stream)
        job.fail(WorkerDied("gone"))
        with pytest.raises(WorkerDied):
            await read(stream)

    virtual_time(main())


def test_a_stream_that_comes_too_late_is_nobodys(virtual_time: Run) -> None:
    async def main() -> None:
        job = new_job()
        job.expire(5)
        job.begin(new_stream())
        assert job.stream is None and job.is_over
        assert job.future.exception() is not None

    virtual_time(main())
