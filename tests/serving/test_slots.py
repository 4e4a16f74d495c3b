"""Requests one by one to workers that serve several at once."""

from __future__ import annotations

from serving_fakes import EagerRule, FakeTaker, PatientRule, Run, ids, new_job

from model_server.serving.jobs import Job
from model_server.serving.slots import SlotQueue
from model_server.wire.messages import RequestKind


def slot_queue(slots: int, *takers: FakeTaker) -> SlotQueue:
    queue = SlotQueue(100, {"predict": PatientRule(), "explain": EagerRule(1), "describe": EagerRule(1)}, slots)
    for taker in takers:
        queue.attach(taker)
    return queue


def put(queue: SlotQueue, *names: str, kind: RequestKind = "predict", alone: bool = False) -> list[Job]:
    jobs = [new_job(name, kind=kind, alone=alone) for name in names]
    for job in jobs:
        queue.put(job)
    return jobs


def test_each_job_goes_at_once_and_by_itself(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = slot_queue(3, taker)
        put(queue, "a", "b")
        put(queue, "e", kind="explain")
        assert taker.given == [["a"], ["b"], ["e"]]
        assert taker.kinds == ["predict", "predict", "explain"]

    virtual_time(main())


def test_never_more_than_the_slots_and_the_next_as_soon_as_one_is_free(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = slot_queue(2, taker)
        put(queue, "a", "b", "c", "d")
        assert (taker.given, len(queue)) == ([["a"], ["b"]], 2)
        taker.answer(queue)
        assert (taker.given, len(queue)) == ([["a"], ["b"], ["c"]], 1)

    virtual_time(main())


def test_the_worker_with_the_fewest_jobs_gets_the_next(virtual_time: Run) -> None:
    async def main() -> None:
        one, two = FakeTaker("one"), FakeTaker("two")
        queue = slot_queue(4, one, two)
        put(queue, "a", "b", "c", "d")
        assert (one.given, two.given) == ([["a"], ["c"]], [["b"], ["d"]])
        two.answer(queue)
        put(queue, "e")
        assert two.given[-1] == ["e"]

    virtual_time(main())


def test_a_worker_that_comes_takes_what_waits(virtual_time: Run) -> None:
    async def main() -> None:
        queue = slot_queue(2)
        put(queue, "a", "b", "c")
        taker = FakeTaker()
        queue.attach(taker)
        assert taker.given == [["a"], ["b"]]

    virtual_time(main())


def test_what_must_be_alone_waits_for_an_empty_worker_and_shares_it_with_nobody(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = slot_queue(3, taker)
        put(queue, "a")
        put(queue, "quarantined", alone=True)
        put(queue, "b")
        assert taker.given == [["a"]]
        assert not queue.has_free_worker, "one more would wait behind it"
        taker.answer(queue)
        assert taker.given == [["a"], ["quarantined"]]
        taker.answer(queue)
        assert taker.given == [["a"], ["quarantined"], ["b"]]

    virtual_time(main())


def test_jobs_of_a_dead_worker_go_to_another_and_can_be_discarded_on_the_way(virtual_time: Run) -> None:
    async def main() -> None:
        dying = FakeTaker("dying")
        queue = slot_queue(3, dying)
        jobs = put(queue, "a", "b", "c")
        jobs[1].future.cancel()
        dying.die(queue)
        assert len(queue) == 2
        jobs[2].future.cancel()
        queue.discard(jobs[2])
        assert dying.cancelled == [], "no worker has it any more"
        other = FakeTaker("other")
        queue.attach(other)
        assert other.given == [["a"]]
        queue.discard(jobs[0])
        assert other.cancelled == ["a"]

    virtual_time(main())


def test_a_ticket_is_a_free_slot(virtual_time: Run) -> None:
    async def main() -> None:
        assert not slot_queue(2).has_free_worker
        taker = FakeTaker()
        queue = slot_queue(2, taker)
        for name in "ab":
            assert queue.has_free_worker
            put(queue, name)
        assert not queue.has_free_worker
        put(queue, "c")
        taker.answer(queue)
        assert not queue.has_free_worker
        assert ids(taker.answer(queue)) == ["b"]
        assert queue.has_free_worker

    virtual_time(main())
