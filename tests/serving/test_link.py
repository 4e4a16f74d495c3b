"""A link with a scripted worker at the other end of a real socketpair, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest
from serving_fakes import DEADLINE_S, Run, ScriptedPeer, ids, new_job

from model_server.metrics.server_metrics import HandlerSample
from model_server.serving.jobs import Job
from model_server.serving.link import Flight, Link, LinkEvents
from model_server.serving.streams import Stream
from model_server.wire.messages import (
    STREAM_WINDOW_BYTES,
    Call,
    Cancel,
    Capabilities,
    Chunk,
    Credit,
    Failure,
    Headers,
    ItemResult,
    Load,
    Loaded,
    Message,
    Part,
    Predict,
    RequestKind,
    Result,
    Started,
    Stop,
    encode,
)

LONG: Mapping[RequestKind, float | None] = {"predict": 60, "explain": 60, "describe": 60}


@dataclass
class Heard:
    """What a link told its owner."""

    finished: list[tuple[list[str], float]] = field(default_factory=list)
    overdue: list[list[str]] = field(default_factory=list)
    recorded: list[HandlerSample] = field(default_factory=list)

    def events(self) -> LinkEvents:
        return LinkEvents(
            lambda link, flight, service_s: self.finished.append((ids(flight.jobs), service_s)),
            lambda flight: self.overdue.append(ids(flight.jobs)),
            self.recorded.extend,
        )


@contextlib.asynccontextmanager
async def linked(
    heard: Heard | None = None,
    timeouts_s: Mapping[RequestKind, float | None] = LONG,
    *,
    is_sequential: bool = False,
) -> AsyncIterator[tuple[Link, ScriptedPeer]]:
    ours, theirs = socket.socketpair()
    with theirs:
        link = await Link.open(ours, "cpu:0", timeouts_s, (heard or Heard()).events(), is_sequential=is_sequential)
        try:
            yield link, ScriptedPeer(theirs)
        finally:
            link.abandon()
            await asyncio.wait_for(link.closed, DEADLINE_S)


def result(batch_id: int, *bodies: bytes) -> Result:
    return Result(batch_id, [ItemResult("r", body=body) for body in bodies])


async def answers(*jobs: Job) -> list[bytes]:
    return [bytes(cast(ItemResult, await asyncio.wait_for(job.future, DEADLINE_S)).body) for job in jobs]


def part(batch_id: int, data: bytes, index: int = 0) -> Chunk:
    return Chunk(batch_id, index, 200, "", [], data)


async def stream_of(job: Job) -> Stream:
    return cast(Stream, await asyncio.wait_for(job.future, DEADLINE_S))


async def read(stream: Stream) -> list[bytes]:
    return [bytes(part) async for part in stream]


# --- loading ---


# --- workers that do one batch after the other ---


def test_a_batch_begins_when_it_is_sent_or_the_one_before_is_answered(real_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard, is_sequential=True) as (link, peer):
            first, second = [new_job("a"), new_job("b")], [new_job("c")]
            link.send("predict", first)
            assert link.jobs_under_way == 2
            link.send("predict", second)
            assert link.jobs_under_way == 2
            answered = result(1, b"A", b"B")
            answered.service_s = 0.25
            await peer.sends(answered)
            assert await answers(*first) == [b"A", b"B"]
            assert link.jobs_under_way == 1
            await peer.sends(result(2, b"C"))
            assert await answers(*second) == [b"C"]
            assert link.jobs_under_way == 0
            assert heard.finished[0][1] == 0.25
            assert 0 <= heard.finished[1][1] < DEADLINE_S

    real_time(main())


def test_the_clock_of_a_batch_runs_from_its_beginning(real_time: Run) -> None:
    """Not from when it was sent: the first of them may take as long as it may."""

    async def main() -> None:
        heard = Heard()
        timeouts_s: dict[RequestKind, float | None] = {"predict": 0.2, "explain": None, "describe": None}
        async with linked(heard, timeouts_s, is_sequential=True) as (link, peer):
            link.send("explain", [new_job("long", kind="explain")])
            link.send("predict", [new_job("behind")])
            await asyncio.sleep(0.3)
            assert heard.overdue == []
            await peer.sends(result(1, b""))
            while not heard.overdue:
                await asyncio.sleep(0.01)
            assert heard.overdue == [["behind"]]

    real_time(main())


def test_such_a_worker_says_nothing_of_beginning(real_time: Run) -> None:
    async def main() -> None:
        async with linked(is_sequential=True) as (link, peer):
            link.send("predict", [new_job("a")])
            await peer.sends(Started(1))
            await asyncio.wait_for(link.closed, DEADLINE_S)
            assert link.fault is not None

    real_time(main())


# --- others ---


@pytest.mark.parametrize("message", [Loaded(Capabilities(length_batching=True)), Failure(507, "no room", "Traceback")])
def test_the_first_message_is_how_loading_ended(message: Loaded | Failure, real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            link.write(Load("m", "/model", "handler", 1))
            assert await peer.receive() == Load("m", "/model", "handler", 1)
            await peer.sends(message)
            await link.wait_loaded(DEADLINE_S)
            assert link.loaded.result() == message
            assert not link.closed.done()

    real_time(main())


def test_waiting_for_the_load_ends_with_the_worker(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            peer.dies()
            await link.wait_loaded(DEADLINE_S)
            assert (link.loaded.done(), link.closed.done()) == (False, True)

    real_time(main())


def test_waiting_for_the_load_ends_with_the_time_allowed(virtual_time: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with linked() as (link, _):
            await link.wait_loaded(30)
            assert loop.time() == 1030
            assert not link.loaded.done() and not link.closed.done()

    virtual_time(main())


# --- answers ---


def test_answers_reach_their_jobs_in_any_order_of_batches(real_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard) as (link, peer):
            a, b, c = (new_job(name, body=name.encode()) for name in "abc")
            link.send("predict", [a, b])
            link.send("predict", [c])
            assert link.outstanding == 2
            first, second = await peer.receive(), await peer.receive()
            assert isinstance(first, Predict) and isinstance(second, Predict)
            assert [item.parts for item in first.items] == [[Part("body", b"a")], [Part("body", b"b")]]
            assert first.batch_id != second.batch_id
            await peer.sends(Started(second.batch_id), result(second.batch_id, b"C"))
            await peer.sends(Started(first.batch_id), result(first.batch_id, b"A", b"B"))
            assert await answers(a, b, c) == [b"A", b"B", b"C"]
            assert [names for names, _ in heard.finished] == [["c"], ["a", "b"]]
            assert link.outstanding == 0

    real_time(main())


def test_service_time_is_from_started_to_result(virtual_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard) as (link, peer):
            job = new_job()
            link.send("predict", [job])
            await asyncio.sleep(5)  # in the pipe, behind another batch
            await peer.sends(Started(1))
            await asyncio.sleep(2)
            await peer.sends(result(1, b"x"))
            await answers(job)
            assert heard.finished == [(["r"], 2.0)]

    virtual_time(main())


def test_an_error_of_one_item_is_an_answer_like_any_other(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            job = new_job()
            link.send("explain", [job])
            failed = ItemResult("r", 503, error="Prediction failed")
            await peer.sends(Started(1), Result(1, [failed]))
            assert await asyncio.wait_for(job.future, DEADLINE_S) == failed

    real_time(main())


def test_jobs_that_are_over_do_not_disturb_the_others(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            gone, waiting = new_job("gone"), new_job("waiting")
            link.send("predict", [gone, waiting])
            gone.future.cancel()
            await peer.sends(Started(1), result(1, b"gone", b"there"))
            assert await answers(waiting) == [b"there"]

    real_time(main())


def test_bodies_larger_than_every_buffer(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            body = bytes(range(256)) * 20_000
            job = new_job(body=body)
            link.send("predict", [job])
            sent = await peer.receive()
            assert isinstance(sent, Predict) and sent.items[0].parts[0].data == body
            await peer.sends(Started(1), result(1, body))
            assert await answers(job) == [body]

    real_time(main())


def test_answers_that_come_byte_by_byte(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            job = new_job()
            link.send("predict", [job])
            for message in (Started(1), result(1, b"whole")):
                for byte in b"".join(encode(message)):
                    await peer.sends_raw(bytes([byte]))
            assert await answers(job) == [b"whole"]

    real_time(main())


def test_repeated_loads_change_nothing_and_samples_are_told(real_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard) as (link, peer):
            job = new_job()
            link.send("predict", [job])
            answer = result(1, b"x")
            answer.samples = [("m", 1.0, "ms", "GAUGE", [("Level", "Model")], "r")]
            await peer.sends(Loaded(Capabilities()), Loaded(Capabilities()), Started(1), answer)
            assert await answers(job) == [b"x"]
            assert heard.recorded == [["m", 1.0, "ms", "GAUGE", [["Level", "Model"]], "r"]]  # JSON has lists only

    real_time(main())


def test_idle_is_when_every_batch_is_answered(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            await asyncio.wait_for(link.wait_idle(), DEADLINE_S)
            first, second = new_job("a"), new_job("b")
            link.send("predict", [first])
            link.send("predict", [second])
            idle = asyncio.create_task(link.wait_idle())
            await peer.sends(Started(1), result(1, b"x"))
            await answers(first)
            assert not idle.done()
            await peer.sends(Started(2), result(2, b"x"))
            await asyncio.wait_for(idle, DEADLINE_S)

    real_time(main())


@pytest.mark.parametrize(("kind", "alone", "willing"), [("predict", False, True), ("predict", True, False)])
def test_prefetch_is_off_behind_what_may_end_badly(
    kind: RequestKind, alone: bool, willing: bool, real_time: Run
) -> None:
    async def main() -> None:
        async with linked() as (link, _):
            assert link.may_prefetch
            link.send(kind, [new_job(alone=alone)])
            assert link.may_prefetch is willing

    real_time(main())


@pytest.mark.parametrize("kind", ["explain", "describe"])
def test_prefetch_is_off_behind_what_takes_long(kind: RequestKind, real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            job = new_job(kind=kind)
            link.send(kind, [job])
            link.send("predict", [new_job()])
            assert not link.may_prefetch
            await peer.sends(Started(1), result(1, b"x"))
            await answers(job)
            assert link.may_prefetch

    real_time(main())


# --- answers in parts ---


def test_parts_reach_their_jobs_and_the_result_is_the_last(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            a, b = new_job("a"), new_job("b")
            link.send("predict", [a, b])
            first = Chunk(1, 0, 207, "Many", [("x-a", "1")], b"a1 ")
            await peer.sends(Started(1), first, part(1, b"b1 ", 1), part(1, b"a2 "), result(1, b"a3", b"b2"))
            stream = await stream_of(a)
            assert (stream.status, stream.reason, stream.headers) == (207, "Many", [("x-a", "1")])
            assert await read(stream) == [b"a1 ", b"a2 ", b"a3"]
            assert await read(await stream_of(b)) == [b"b1 ", b"b2"]
            assert link.outstanding == 0

    real_time(main())


def test_members_of_one_batch_may_stream_or_not(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            streams, whole = new_job("streams"), new_job("whole")
            link.send("predict", [streams, whole])
            await peer.sends(Started(1), part(1, b"part "), result(1, b"end", b"whole"))
            assert await answers(whole) == [b"whole"]
            assert await read(await stream_of(streams)) == [b"part ", b"end"]

    real_time(main())


def test_whoever_asks_is_shown_the_headers_of_every_part(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            job = new_job()
            shown: list[Headers] = []
            job.on_headers = shown.append
            link.send("predict", [job])
            headers: list[Headers] = [[("x", str(number))] for number in range(3)]
            chunks = [Chunk(1, 0, 200, "", of_part, b"") for of_part in headers[:2]]
            await peer.sends(Started(1), *chunks, Result(1, [ItemResult("r", headers=headers[2])]))
            await read(await stream_of(job))
            assert shown == headers

    real_time(main())


def test_a_client_that_took_its_parts_gives_the_worker_credit(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            link.send("predict", [new_job("a"), job := new_job("b")])
            await peer.receive()
            half = bytes(STREAM_WINDOW_BYTES // 2)
            await peer.sends(Started(1), part(1, half, 1), part(1, half, 1))
            reading = asyncio.create_task(read(await stream_of(job)))
            assert [await peer.receive(), await peer.receive()] == [Credit(1, 1, len(half))] * 2
            await peer.sends(result(1, b"", b""))
            assert await asyncio.wait_for(reading, DEADLINE_S) == [half, half]

    real_time(main())


def test_the_worker_is_told_of_clients_that_go_away_at_any_stage(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            waiting, streaming, done = (new_job(name) for name in ("waiting", "streaming", "done"))
            link.send("predict", [done])
            await peer.receive()
            await peer.sends(Started(1), part(1, b"x"), result(1, b"y"))
            (await stream_of(done)).abandon()
            link.cancel(done)  # too late: it says nothing
            link.send("predict", [waiting, streaming])
            await peer.receive()
            assert waiting.cancel is not None
            waiting.cancel(waiting)
            assert await peer.receive() == Cancel(2, 0)
            await peer.sends(Started(2), part(2, b"x", 1))
            (await stream_of(streaming)).abandon()
            assert await peer.receive() == Cancel(2, 1)

    real_time(main())


def test_parts_for_a_client_that_is_gone_are_dropped(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            gone, there = new_job("gone"), new_job("there")
            link.send("predict", [gone, there])
            gone.future.cancel()
            await peer.sends(Started(1), part(1, b"x"), part(1, b"y"), part(1, b"z", 1), result(1, b"end", b"end"))
            assert await read(await stream_of(there)) == [b"z", b"end"]
            assert gone.stream is None

    real_time(main())


def test_nothing_waits_behind_a_stream_whose_end_nobody_knows(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            link.send("predict", [job := new_job()])
            assert link.may_prefetch
            await peer.sends(Started(1), part(1, b"x"))
            await stream_of(job)
            assert not link.may_prefetch
            await peer.sends(result(1, b"end"))
            await read(await stream_of(job))
            link.send("predict", [new_job()])
            assert not link.may_prefetch, "this worker's next answer may be a stream as well"

    real_time(main())


def test_what_is_under_way_is_what_the_worker_has_begun_with(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            link.send("predict", [new_job("a"), new_job("b")])
            link.send("predict", [last := new_job("c")])
            assert link.jobs_under_way == 0
            await peer.sends(Started(2), part(2, b"x"))
            await stream_of(last)
            assert link.jobs_under_way == 1
            await peer.sends(Started(1), result(2, b"end"))
            await read(await stream_of(last))
            assert link.jobs_under_way == 2

    real_time(main())


# --- workers that break the protocol ---


@pytest.mark.parametrize(
    "message",
    [
        Started(1),
        Started(2),
        result(2, b"x", b"y"),
        result(1, b"x"),
        result(1, b"x", b"y", b"z"),
        result(1),
        Stop(),
        Load("m", "/", "h", 1),
        Predict(1, "predict", []),
        Chunk(2, 0, 200, "", [], b""),
        Chunk(1, 2, 200, "", [], b""),
        Chunk(1, -1, 200, "", [], b""),
        Call(1, "r", "m", None, []),
    ],
    ids=repr,
)
def test_a_message_that_makes_no_sense_ends_the_connection(message: Message, real_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard) as (link, peer):
            jobs = [new_job("a"), new_job("b")]
            link.send("predict", jobs)
            await peer.sends(Started(1), message)
            await asyncio.wait_for(link.closed, DEADLINE_S)
            assert [ids(flight.jobs) for flight in link.abandon()] == [["a", "b"]]
            assert not any(job.is_over for job in jobs)
            assert heard.finished == []

    real_time(main())


def test_a_second_result_for_one_batch_ends_the_connection(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            job = new_job()
            link.send("predict", [job])
            await peer.sends(Started(1), result(1, b"first"), result(1, b"second"))
            assert await answers(job) == [b"first"]
            await asyncio.wait_for(link.closed, DEADLINE_S)

    real_time(main())


def test_garbage_ends_the_connection(real_time: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            link.send("predict", [new_job("a")])
            await peer.sends_garbage()
            await asyncio.wait_for(link.closed, DEADLINE_S)
            assert [ids(flight.jobs) for flight in link.abandon()] == [["a"]]

    real_time(main())
    assert "0x54" in caplog.text  # the T of Traceback


def test_answers_before_the_garbage_count(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            first, second = new_job("a"), new_job("b")
            link.send("predict", [first])
            link.send("predict", [second])
            good = b"".join(b"".join(encode(message)) for message in (Started(1), result(1, b"fine")))
            await peer.sends_raw(good + b"garbage behind it....")
            assert await answers(first) == [b"fine"]
            await asyncio.wait_for(link.closed, DEADLINE_S)
            assert [ids(flight.jobs) for flight in link.abandon()] == [["b"]]

    real_time(main())


# --- workers that die ---


@pytest.mark.parametrize("last_words", [b"", b"".join(encode(result(1, b"x")))[:-1]])
def test_the_end_of_the_connection_leaves_the_jobs_to_the_owner(last_words: bytes, real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            started, waiting = new_job("started"), new_job("waiting")
            link.send("predict", [started])
            link.send("predict", [waiting])
            for _ in range(2):
                await peer.receive()
            await peer.sends(Started(1))
            await peer.sends_raw(last_words)
            peer.dies()
            await asyncio.wait_for(link.closed, DEADLINE_S)
            flights = link.abandon()
            assert [(ids(flight.jobs), flight.started_s is not None) for flight in flights] == [
                (["started"], True),
                (["waiting"], False),
            ]
            assert not started.is_over and not waiting.is_over
            assert (link.outstanding, link.abandon()) == (0, [])
            await asyncio.wait_for(link.wait_idle(), DEADLINE_S)

    real_time(main())


def test_writing_to_a_worker_that_is_gone_is_no_error(real_time: Run) -> None:
    async def main() -> None:
        async with linked() as (link, peer):
            peer.dies()
            await asyncio.wait_for(link.closed, DEADLINE_S)
            link.write(Stop())
            link.send("predict", [new_job("a", body=b"x" * 1_000_000)])
            assert [ids(flight.jobs) for flight in link.abandon()] == [["a"]]

    real_time(main())


# --- time ---


def test_a_worker_may_take_as_long_as_its_kind_of_work_from_started(virtual_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard, {"predict": 2, "explain": 10, "describe": 1}) as (link, peer):
            link.send("predict", [new_job("p")])
            link.send("explain", [new_job("e")])
            await asyncio.sleep(100)
            assert heard.overdue == []  # not started: the worker cannot be blamed
            await peer.sends(Started(1), Started(2))
            await asyncio.sleep(1.9)
            assert heard.overdue == []
            await asyncio.sleep(0.2)
            assert heard.overdue == [["p"]]
            await asyncio.sleep(8)
            assert heard.overdue == [["p"], ["e"]]

    virtual_time(main())


@pytest.mark.parametrize("ending", ["result", "abandon"])
def test_no_batch_is_overdue_after_its_end(ending: str, virtual_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard, {"predict": 2, "explain": 2, "describe": 2}) as (link, peer):
            link.send("predict", [new_job()])
            await peer.sends(Started(1))
            await asyncio.sleep(1)
            if ending == "result":
                await peer.sends(result(1, b"x"))
            else:
                link.abandon()
            await asyncio.sleep(100)
            assert heard.overdue == []

    virtual_time(main())


def test_each_part_gives_the_worker_its_time_anew(virtual_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard, {"predict": 2, "explain": 2, "describe": 2}) as (link, peer):
            link.send("predict", [new_job()])
            await peer.sends(Started(1))
            for _ in range(5):
                await asyncio.sleep(1.9)
                await peer.sends(part(1, b"x"))
            assert heard.overdue == []
            await asyncio.sleep(1.9)
            assert heard.overdue == []
            await asyncio.sleep(0.2)
            assert heard.overdue == [["r"]]
            await asyncio.sleep(10)
            assert heard.overdue == [["r"]], "once"

    virtual_time(main())


def test_waiting_for_a_client_is_not_hanging(virtual_time: Run) -> None:
    """The client takes nothing for long and all at once then, just before the worker's time would be up."""

    async def main() -> None:
        heard = Heard()
        async with linked(heard, {"predict": 2, "explain": 2, "describe": 2}) as (link, peer):
            link.send("predict", [job := new_job()])
            await peer.sends(Started(1), part(1, bytes(STREAM_WINDOW_BYTES)))
            stream = await stream_of(job)
            await asyncio.sleep(101.9)
            assert heard.overdue == []
            reading = asyncio.create_task(read(stream))
            await asyncio.sleep(1.9)
            assert heard.overdue == []  # its time began when the client had taken what there was
            await peer.sends(part(1, b"x"))
            await asyncio.sleep(1.9)
            assert heard.overdue == []
            await asyncio.sleep(0.2)
            assert heard.overdue == [["r"]]
            reading.cancel()

    virtual_time(main())


def test_a_worker_that_serves_many_at_once_is_never_overdue(virtual_time: Run) -> None:
    async def main() -> None:
        heard = Heard()
        async with linked(heard, {"predict": None, "explain": None, "describe": None}) as (link, peer):
            link.send("predict", [job := new_job()])
            await peer.sends(Started(1))
            await asyncio.sleep(10**6)
            await peer.sends(result(1, b"late"))
            assert await answers(job) == [b"late"]
            assert heard.overdue == []

    virtual_time(main())


def test_overdue_on_a_real_clock(real_time: Run) -> None:
    async def main() -> None:
        overdue: asyncio.Future[Flight] = asyncio.get_running_loop().create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            events = LinkEvents(lambda *_: None, overdue.set_result, lambda _: None)
            link = await Link.open(
                ours, "cpu:0", {"predict": 0.01, "explain": 1, "describe": 1}, events, is_sequential=False
            )
            peer = ScriptedPeer(theirs)
            link.send("predict", [new_job("late")])
            await peer.sends(Started(1))
            assert ids((await asyncio.wait_for(overdue, DEADLINE_S)).jobs) == ["late"]
            link.abandon()
            await link.closed

    real_time(main())
