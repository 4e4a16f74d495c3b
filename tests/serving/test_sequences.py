"""Stateful sequences: whose they are, in which order their requests go, and what ends them."""

from __future__ import annotations

import asyncio

import pytest
from serving_fakes import EagerRule, FakeTaker, PatientRule, Run, ids, new_job, new_request

from model_server.config.server import SequenceHeaders
from model_server.errors import QueueFull, ServiceUnavailable
from model_server.serving.batching import BatchRule
from model_server.serving.jobs import Job
from model_server.serving.sequences import SequenceLimits, SequenceQueue, with_sequence
from model_server.wire.messages import Headers, ItemResult, RequestKind

NAMES = SequenceHeaders("seq-id", "seq-start", "seq-end")
IDLE_S = 10


def sequence_queue(
    *takers: FakeTaker,
    rule: BatchRule | None = None,
    max_sequences: int = 10,
    max_queued: int = 10,
    timeout_ms: int = 0,
    slots: int | None = None,
) -> SequenceQueue:
    limits = SequenceLimits(NAMES, max_sequences, max_queued, IDLE_S * 1000, timeout_ms, slots)
    rules: dict[RequestKind, BatchRule] = {
        "predict": EagerRule(1),
        "explain": EagerRule(1),
        "describe": EagerRule(1),
    }
    queue = SequenceQueue(100, rules, lambda: rule or EagerRule(4), limits)
    for taker in takers:
        queue.attach(taker)
    return queue


def job_of(sequence: str, name: str, *more: tuple[str, str]) -> Job:
    request = new_request(name, headers=[(NAMES.id, sequence), *more])
    return Job(request, asyncio.get_running_loop().create_future(), now_s())


def now_s() -> float:
    return asyncio.get_running_loop().time()


def put(queue: SequenceQueue, *names: str) -> list[Job]:
    """`a1` is a request of the sequence `a`."""
    jobs = [job_of(name[0], name) for name in names]
    for job in jobs:
        queue.put(job)
    return jobs


def given(taker: FakeTaker) -> list[str]:
    return [" ".join(batch) for batch in taker.given]


def errors(*jobs: Job) -> list[str]:
    return [str(job.future.exception()) if job.future.done() else "waits" for job in jobs]


# --- ids ---


def test_a_request_without_an_id_begins_a_sequence() -> None:
    request = new_request("r", headers=[("x", "y")])
    expected = [("x", "y"), ("seq-id", "ts-seq-r"), ("seq-start", "true")]
    assert with_sequence(request, NAMES).headers == expected
    assert request.headers == [("x", "y")]


@pytest.mark.parametrize("id", ["7", "a b", "ä;=", "\udcff"])
def test_an_id_of_the_clients_choice_is_left_alone(id: str) -> None:
    request = new_request(headers=[("seq-id", id)])
    assert with_sequence(request, NAMES) is request


def test_an_empty_id_is_none_and_names_are_exact() -> None:
    for headers in ([("seq-id", "")], [("Seq-Id", "a")]):
        assert with_sequence(new_request("r", headers=headers), NAMES).headers[-2:] == [
            ("seq-id", "ts-seq-r"),
            ("seq-start", "true"),
        ]


def test_of_two_ids_the_last_one_counts_as_for_the_handler(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker)
        put(queue, "b1")
        queue.put(job_of("a", "both", ("seq-id", "b")))
        assert given(taker) == ["b1"]
        put(queue, "a1")
        taker.answer(queue)
        assert given(taker) == ["b1", "both a1"]

    virtual_time(main())


# --- order and owners ---


def test_requests_of_one_sequence_go_one_at_a_time_in_order(virtual_time: Run) -> None:
    async def main() -> None:
        taker, idle = FakeTaker("one"), FakeTaker("two")
        queue = sequence_queue(taker, idle)
        put(queue, "a1", "a2", "a3")
        for _ in range(3):
            taker.answer(queue)
        assert (given(taker), given(idle)) == (["a1", "a2", "a3"], [])

    virtual_time(main())


def test_a_batch_has_at_most_one_request_of_each_sequence_the_oldest_first(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, rule=EagerRule(3))
        for name in ("x1", "b1", "a1", "b2", "c1", "d1", "a2"):
            put(queue, name)
            await asyncio.sleep(1)
        for _ in range(3):
            taker.answer(queue)
        assert given(taker) == ["x1", "b1 a1 c1", "b2 d1 a2"]

    virtual_time(main())


def test_sequences_are_shared_out_and_stay(virtual_time: Run) -> None:
    async def main() -> None:
        one, two = FakeTaker("one"), FakeTaker("two")
        queue = sequence_queue(one, two)
        put(queue, "a1", "b1", "c1")
        for taker in (one, two):
            taker.answer(queue)
        one.answer(queue)
        put(queue, "b2", "c2")
        assert (given(one), given(two)) == (["a1", "c1", "c2"], ["b1", "b2"])

    virtual_time(main())


def test_a_sequence_that_moved_before_it_began_is_not_its_former_workers_any_more(virtual_time: Run) -> None:
    async def main() -> None:
        one, two = FakeTaker("one"), FakeTaker("two")
        queue = sequence_queue(one, rule=EagerRule(1))
        put(queue, "a1", "b1", "b2")
        queue.attach(two)
        assert given(two) == ["b1"]
        one.answer(queue)
        two.answer(queue)
        assert (given(one), given(two)) == (["a1"], ["b1", "b2"])

    virtual_time(main())


def test_sequences_that_wait_for_the_first_workers_are_shared_out_too(virtual_time: Run) -> None:
    async def main() -> None:
        queue = sequence_queue(rule=EagerRule(1))
        put(queue, "a1", "b1", "c1", "d1", "a2")
        one, two = FakeTaker("one"), FakeTaker("two")
        queue.attach(one)
        queue.attach(two)
        assert (given(one), given(two)) == (["a1"], ["b1"])
        for taker in (one, two, one):
            taker.answer(queue)
        assert sorted(given(one) + given(two)) == ["a1", "a2", "b1", "c1", "d1"]
        assert "a2" in given(one)

    virtual_time(main())


def test_the_batching_rule_is_asked_for_each_worker_and_heeded(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, rule=PatientRule(batch_size=2, delay_s=3))
        start_s = now_s()
        put(queue, "a1")
        await asyncio.sleep(1)
        put(queue, "b1", "c1")
        await asyncio.sleep(1.5)
        assert given(taker) == []
        await asyncio.sleep(0.6)
        assert (given(taker), now_s() - start_s) == (["a1 b1"], pytest.approx(3.1))
        taker.answer(queue)
        await asyncio.sleep(1)
        assert given(taker) == ["a1 b1", "c1"]

    virtual_time(main())


def test_the_batching_rule_learns_how_long_a_worker_takes(virtual_time: Run) -> None:
    async def main() -> None:
        taker, rule = FakeTaker(), EagerRule()
        queue = sequence_queue(taker, rule=rule)
        put(queue, "a1")
        taker.answer(queue, service_s=0.5)
        queue.put(new_job("explain", kind="explain"))
        taker.answer(queue, service_s=7)
        assert rule.services_s == [0.5]

    virtual_time(main())


def test_no_sequence_shares_a_worker_with_what_must_be_alone(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, slots=2)
        queue.put(new_job("quarantined", kind="explain", alone=True))
        put(queue, "a1")
        assert given(taker) == ["quarantined"]
        taker.answer(queue)
        assert given(taker) == ["quarantined", "a1"]

    virtual_time(main())


def test_with_slots_each_request_goes_by_itself(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, rule=EagerRule(1), slots=2)
        put(queue, "a1", "a2", "b1", "c1")
        assert given(taker) == ["a1", "b1"]
        taker.answer(queue)
        assert given(taker) == ["a1", "b1", "a2"]

    virtual_time(main())


def test_explanations_belong_to_no_sequence(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker)
        put(queue, "a1")
        queue.put(new_job("explain", kind="explain"))
        taker.answer(queue)
        assert given(taker) == ["a1", "explain"] and len(queue) == 0

    virtual_time(main())


# --- room ---


def test_a_sequence_too_many_is_refused_and_told_when_one_may_end(virtual_time: Run) -> None:
    async def main() -> None:
        queue = sequence_queue(max_sequences=2)
        put(queue, "a1", "b1", "a2")
        with pytest.raises(QueueFull, match=r"2 sequences are open.*maxNumSequence") as caught:
            put(queue, "c1")
        assert caught.value.retry_after_s == IDLE_S
        assert len(queue) == 3

    virtual_time(main())


def test_a_request_too_many_of_one_sequence_is_refused(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, max_queued=2)
        put(queue, "a1", "a2", "a3")  # the first one is with the worker
        with pytest.raises(QueueFull, match=r"2 requests of sequence 'a' wait.*maxSequenceJobQueueSize"):
            put(queue, "a4")
        put(queue, "b1", "b2")

    virtual_time(main())


# --- ends ---


async def is_open(queue: SequenceQueue, taker: FakeTaker, id: str) -> bool:
    """Whether there is no room for another one in a queue for one sequence."""
    try:
        put(queue, f"{id}?")
    except QueueFull:
        return True
    taker.answer(queue)
    return False


def test_a_sequence_ends_when_it_was_idle_for_the_time_set_and_not_while_it_works(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, max_sequences=1)
        _, given_up = put(queue, "a1", "a2")
        queue.discard(given_up)
        await asyncio.sleep(5 * IDLE_S)
        assert await is_open(queue, taker, "b")
        put(queue, "a3")
        for _ in range(2):
            await asyncio.sleep(5 * IDLE_S)
            assert await is_open(queue, taker, "b")
            taker.answer(queue)
        await asyncio.sleep(IDLE_S - 1)
        put(queue, "a4")
        await asyncio.sleep(5 * IDLE_S)
        taker.answer(queue)
        await asyncio.sleep(IDLE_S - 1)
        assert await is_open(queue, taker, "b")
        await asyncio.sleep(2)
        assert not await is_open(queue, taker, "b")

    virtual_time(main())


@pytest.mark.parametrize("how", ["discard", "drop_all"])
def test_a_sequence_whose_only_request_was_given_up_ends_too(how: str, virtual_time: Run) -> None:
    async def main() -> None:
        queue = sequence_queue(max_sequences=1)
        (job,) = put(queue, "a1")
        if how == "discard":
            queue.discard(job)
        else:
            assert queue.drop_all() == [job]
        assert len(queue) == 0
        await asyncio.sleep(IDLE_S + 1)
        put(queue, "b1")

    virtual_time(main())


def test_a_sequence_ends_when_its_time_is_up_and_its_requests_are_told(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, max_sequences=1, timeout_ms=5000)
        jobs = put(queue, "a1", "a2")
        await asyncio.sleep(4)
        assert errors(*jobs) == ["waits", "waits"]
        await asyncio.sleep(2)
        assert errors(*jobs) == ["waits", "Sequence 'a' has expired (sequenceTimeoutMSec)."]
        put(queue, "b1")
        taker.answer(queue)
        assert given(taker) == ["a1", "b1"]

    virtual_time(main())


def test_a_sequence_that_was_opened_again_is_not_ended_by_the_timers_of_the_former(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, timeout_ms=(IDLE_S + 5) * 1000)
        put(queue, "a1")
        taker.answer(queue)
        await asyncio.sleep(IDLE_S + 1)  # idle: ended
        put(queue, "x1", "a2")
        await asyncio.sleep(IDLE_S - 1)  # the life of the former would be over
        (job,) = put(queue, "a3")
        assert errors(job) == ["waits"]

    virtual_time(main())


@pytest.mark.parametrize("value", ["a", "z;a", "z; a ;b", "a;"])
def test_the_handler_ends_the_sequences_it_names(value: str, virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker, slots=2)
        first, second = put(queue, "a1", "a2")
        assert first.on_headers is not None
        first.on_headers([("x", "a"), ("Seq-End", "a")])
        assert errors(second) == ["waits"]
        headers: Headers = [(NAMES.end, value)]
        first.answer(ItemResult("a1", headers=headers))
        assert errors(second) == ["Sequence 'a' is closed."]

    virtual_time(main())


def test_without_continuous_batching_the_handler_has_no_say_as_in_torchserve(virtual_time: Run) -> None:
    async def main() -> None:
        queue = sequence_queue(FakeTaker())
        first, second = put(queue, "a1", "a2")
        first.answer(ItemResult("a1", headers=[(NAMES.end, "a")]))
        assert errors(second) == ["waits"]

    virtual_time(main())


# --- workers that go ---


def test_the_state_of_a_dead_worker_is_lost_and_nothing_else(virtual_time: Run) -> None:
    async def main() -> None:
        dying, other = FakeTaker("dying"), FakeTaker("other")
        queue = sequence_queue(dying, other)
        with_it, elsewhere, waiting = put(queue, "a1", "b1", "a2")
        dying.die(queue)
        lost = "The worker that held the state of sequence 'a' is gone."
        assert errors(with_it, elsewhere, waiting) == [lost, "waits", lost]
        with pytest.raises(ServiceUnavailable, match=r"'a' is gone.*seq-start: true"):
            put(queue, "a3")
        put(queue, "b2")
        other.answer(queue)
        assert given(other) == ["b1", "b2"]

    virtual_time(main())


def test_a_lost_sequence_can_begin_anew_at_once_or_is_forgotten_in_time(virtual_time: Run) -> None:
    async def main() -> None:
        dying, other = FakeTaker("dying"), FakeTaker("other")
        queue = sequence_queue(dying)
        put(queue, "a1", "b1")
        dying.answer(queue)
        dying.die(queue)
        queue.attach(other)
        queue.put(job_of("a", "a2", (NAMES.start, "true")))
        other.answer(queue)
        put(queue, "a3")
        assert given(other) == ["a2", "a3"]
        await asyncio.sleep(IDLE_S + 1)
        put(queue, "b2")
        other.answer(queue)
        assert given(other)[-1] == "b2"

    virtual_time(main())


@pytest.mark.parametrize("word", ["true", "True", "TRUE"])
def test_the_start_of_a_sequence_may_be_written_in_any_case(virtual_time: Run, word: str) -> None:
    async def main() -> None:
        dying, other = FakeTaker("dying"), FakeTaker("other")
        queue = sequence_queue(dying)
        put(queue, "a1")
        dying.die(queue)
        queue.attach(other)
        queue.put(job_of("a", "a2", (NAMES.start, word)))
        assert given(other) == ["a2"]

    virtual_time(main())


def test_a_sequence_that_is_lost_twice_is_remembered_from_the_second_time(virtual_time: Run) -> None:
    async def main() -> None:
        queue = sequence_queue()
        for number in range(2):
            queue.attach(dying := FakeTaker())
            queue.put(job_of("a", "a1", (NAMES.start, "true")))
            dying.die(queue)
            await asyncio.sleep(IDLE_S - 1 if number == 0 else 2)
        with pytest.raises(ServiceUnavailable, match="is gone"):
            put(queue, "a2")

    virtual_time(main())


def test_a_sequence_that_no_worker_has_seen_is_served_by_another(virtual_time: Run) -> None:
    async def main() -> None:
        dying = FakeTaker("dying")
        queue = sequence_queue(dying, rule=EagerRule(1))
        _, unseen = put(queue, "a1", "b1")
        dying.die(queue)
        assert errors(unseen) == ["waits"]
        other = FakeTaker("other")
        queue.attach(other)
        assert given(other) == ["b1"]

    virtual_time(main())


def test_a_sequence_that_no_worker_has_seen_moves_at_once_where_another_is_free(virtual_time: Run) -> None:
    async def main() -> None:
        leaving, other = FakeTaker("leaving"), FakeTaker("other")
        queue = sequence_queue(leaving, other, rule=EagerRule(1))
        put(queue, "a1", "b1", "c1")
        other.answer(queue)
        assert given(other) == ["b1"]
        queue.detach(leaving)
        assert given(other) == ["b1", "c1"]

    virtual_time(main())


def test_the_end_of_a_request_that_outlived_its_sequence_does_not_touch_the_next_one(virtual_time: Run) -> None:
    async def main() -> None:
        leaving, other = FakeTaker("leaving"), FakeTaker("other")
        queue = sequence_queue(leaving, other, max_sequences=1)
        put(queue, "a1")
        queue.detach(leaving)  # scaled away; it finishes what it has
        queue.put(job_of("a", "a2", (NAMES.start, "true")))
        put(queue, "a3")
        leaving.answer(queue)
        assert given(other) == ["a2"], "one at a time"
        await asyncio.sleep(2 * IDLE_S)
        with pytest.raises(QueueFull):
            put(queue, "b1")  # the next one is open: it works
        other.answer(queue)
        assert given(other) == ["a2", "a3"]

    virtual_time(main())


def test_queues_empty_out_wherever_jobs_were(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker)
        jobs = put(queue, "a1", "a2", "b1")
        queue.put(explain := new_job("e", kind="explain"))
        assert (len(queue), queue.outstanding) == (3, 4)
        assert sorted(ids(queue.drop_all())) == sorted(ids([*jobs[1:], explain]))
        assert len(queue) == 0

    virtual_time(main())


def test_discarding_tells_the_worker_or_forgets(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = sequence_queue(taker)
        with_worker, waiting, last = put(queue, "a1", "a2", "a3")
        queue.discard(with_worker)
        queue.discard(waiting)
        assert taker.cancelled == ["a1"]
        taker.answer(queue)
        assert given(taker) == ["a1", "a3"]
        assert errors(last) == ["waits"]

    virtual_time(main())
