"""The queue with takers and rules that the tests play, on a loop whose time they own."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_fakes import EagerRule, FakeTaker, PatientRule, Run, VirtualTimeLoop, ids, new_job

from model_server.errors import QueueFull
from model_server.serving.batching import BatchRule
from model_server.serving.jobs import Job
from model_server.serving.queue import JobQueue
from model_server.wire.messages import RequestKind


def queue_with(
    predict: BatchRule | None = None,
    *takers: FakeTaker,
    capacity: int = 100,
    explain: BatchRule | None = None,
    describe: BatchRule | None = None,
) -> JobQueue:
    queue = JobQueue(
        capacity,
        {
            "predict": predict or EagerRule(),
            "explain": explain or EagerRule(1),
            "describe": describe or EagerRule(1),
        },
    )
    for taker in takers:
        queue.attach(taker)
    return queue


def put(queue: JobQueue, *names: str, kind: RequestKind = "predict") -> list[Job]:
    jobs = [new_job(name, kind=kind) for name in names]
    for job in jobs:
        queue.put(job)
    return jobs


# --- room ---


def test_a_full_queue_refuses_at_once_and_says_how_large_it_is(virtual_time: Run) -> None:
    async def main() -> None:
        queue = queue_with(capacity=2)
        put(queue, "a")
        put(queue, "b", kind="explain")
        with pytest.raises(QueueFull, match="2 requests wait"):
            put(queue, "c")
        assert len(queue) == 2

    virtual_time(main())


def test_jobs_with_workers_take_no_room(virtual_time: Run) -> None:
    async def main() -> None:
        queue = queue_with(EagerRule(1), FakeTaker(may_prefetch=False), capacity=2)
        put(queue, "with the worker", "a", "b")
        assert (len(queue), queue.outstanding) == (2, 3)
        with pytest.raises(QueueFull):
            put(queue, "c")

    virtual_time(main())


def test_retry_after_is_the_time_the_waiting_jobs_will_take(virtual_time: Run) -> None:
    async def main() -> None:
        # 40 jobs, batches of 4, two workers, 2 s a batch: 5 rounds of 2 s.
        takers = [FakeTaker(may_prefetch=False), FakeTaker(may_prefetch=False)]
        queue = queue_with(EagerRule(4, service_s=2.0), *takers, capacity=40)
        put(queue, "running", "running")
        put(queue, *map(str, range(40)))
        with pytest.raises(QueueFull) as caught:
            put(queue, "one more")
        assert caught.value.retry_after_s in (10, 11)

    virtual_time(main())


def test_retry_after_is_at_least_a_second(virtual_time: Run) -> None:
    async def main() -> None:
        queue = queue_with(EagerRule(4), capacity=1)  # nothing served yet, and no worker
        put(queue, "a")
        with pytest.raises(QueueFull) as caught:
            put(queue, "b")
        assert caught.value.retry_after_s == 1

    virtual_time(main())


# --- order ---


def test_first_come_first_served(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker(may_prefetch=False)
        queue = queue_with(EagerRule(2))
        put(queue, "a", "b", "c", "d", "e")
        queue.attach(taker)
        while taker.outstanding:
            taker.answer(queue)
        assert taker.given == [["a", "b"], ["c", "d"], ["e"]]

    virtual_time(main())


def test_a_batch_never_mixes_kinds_and_lanes_take_turns(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker(may_prefetch=False)
        queue = queue_with(EagerRule(2), explain=EagerRule(2))
        put(queue, "p1", "p2", "p3", "p4")
        put(queue, "e1", "e2", "e3", kind="explain")
        put(queue, "d1", kind="describe")
        queue.attach(taker)
        while taker.outstanding:
            taker.answer(queue)
        assert taker.given == [["p1", "p2"], ["e1", "e2"], ["d1"], ["p3", "p4"], ["e3"]]
        assert taker.kinds == ["predict", "explain", "describe", "predict", "explain"]

    virtual_time(main())


def test_the_worker_that_is_free_for_longest_is_next(virtual_time: Run) -> None:
    async def main() -> None:
        first, second = FakeTaker(), FakeTaker()
        queue = queue_with(EagerRule(1), first, second)
        put(queue, "a", "b")
        second.answer(queue)
        first.answer(queue)
        put(queue, "c", "d")
        assert (first.given, second.given) == ([["a"], ["d"]], [["b"], ["c"]])

    virtual_time(main())


def test_jobs_put_back_come_first_and_in_their_order(virtual_time: Run) -> None:
    async def main() -> None:
        dying, taker = FakeTaker(may_prefetch=False), FakeTaker(may_prefetch=False)
        queue = queue_with(EagerRule(3), dying)
        put(queue, "a", "b", "c", "d", "e")  # `a` goes at once, alone
        dying.answer(queue)
        assert dying.given == [["a"], ["b", "c", "d"]]
        put(queue, "x", kind="explain")
        dying.die(queue)
        assert [ids(list(queue.lane(kind).jobs)) for kind in ("predict", "explain")] == [["b", "c", "d", "e"], ["x"]]
        queue.attach(taker)
        while taker.outstanding:
            taker.answer(queue)
        assert sorted(taker.given) == [["b", "c", "d"], ["e"], ["x"]]
        assert queue.outstanding == 0

    virtual_time(main())


def test_jobs_put_back_that_are_over_are_left_out(virtual_time: Run) -> None:
    async def main() -> None:
        queue = queue_with()
        jobs = [new_job(name) for name in ("a", "b", "c")]
        jobs[1].future.cancel()
        queue.put_back(jobs)
        assert ids(list(queue.lane("predict").jobs)) == ["a", "c"]

    virtual_time(main())


# --- going away ---


def test_a_cancelled_job_is_never_sent(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with(EagerRule(4))
        jobs = put(queue, "a", "b", "c")
        jobs[1].future.cancel()
        queue.discard(jobs[1])
        queue.attach(taker)
        assert taker.given == [["a", "c"]]

    virtual_time(main())


def test_discarding_a_job_that_is_with_a_worker_changes_nothing(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with(EagerRule(1), taker)
        (job,) = put(queue, "a")
        job.future.cancel()
        queue.discard(job)
        assert queue.outstanding == 1
        taker.answer(queue)
        assert queue.outstanding == 0

    virtual_time(main())


def test_a_discarded_job_makes_room(virtual_time: Run) -> None:
    async def main() -> None:
        queue = queue_with(capacity=1)
        (job,) = put(queue, "a")
        queue.discard(job)
        put(queue, "b")

    virtual_time(main())


def test_drop_all_empties_every_lane(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with()
        put(queue, "p1", "p2")
        put(queue, "e1", kind="explain")
        assert sorted(ids(queue.drop_all())) == ["e1", "p1", "p2"]
        queue.attach(taker)
        assert (len(queue), taker.given) == (0, [])

    virtual_time(main())


def test_a_detached_taker_keeps_what_it_has_and_gets_no_more(virtual_time: Run) -> None:
    async def main() -> None:
        leaving, staying = FakeTaker(), FakeTaker()
        queue = queue_with(EagerRule(1), leaving)
        put(queue, "a")
        queue.detach(leaving)
        put(queue, "b")
        leaving.answer(queue)
        assert (leaving.given, ids(list(queue.lane("predict").jobs))) == ([["a"]], ["b"])
        queue.attach(staying)
        assert staying.given == [["b"]]
        queue.detach(leaving)  # twice is once
        assert queue.outstanding == 1

    virtual_time(main())


# --- explanations ---


@pytest.mark.parametrize(("workers", "explaining"), [(1, 1), (2, 1), (3, 2), (5, 4)])
def test_explanations_leave_one_worker_to_predictions(workers: int, explaining: int, virtual_time: Run) -> None:
    async def main() -> None:
        takers = [FakeTaker(may_prefetch=False) for _ in range(workers)]
        queue = queue_with(EagerRule(1), *takers)
        put(queue, *(f"e{number}" for number in range(10)), kind="explain")
        assert sum(taker.kinds == ["explain"] for taker in takers) == explaining
        assert queue.lane("explain").busy == explaining
        put(queue, "p")
        assert sum(["p"] in taker.given for taker in takers) == (workers > 1)

    virtual_time(main())


def test_the_next_explanation_begins_when_one_is_done(virtual_time: Run) -> None:
    async def main() -> None:
        takers = [FakeTaker(), FakeTaker()]
        queue = queue_with(None, *takers)
        put(queue, "e1", "e2", kind="explain")
        assert [taker.given for taker in takers] == [[["e1"]], []]
        takers[0].answer(queue)
        assert [taker.given for taker in takers] == [[["e1"]], [["e2"]]]

    virtual_time(main())


def test_describe_requests_may_use_every_worker(virtual_time: Run) -> None:
    async def main() -> None:
        takers = [FakeTaker(), FakeTaker()]
        queue = queue_with(None, *takers)
        put(queue, "d1", "d2", kind="describe")
        assert [taker.given for taker in takers] == [[["d1"]], [["d2"]]]

    virtual_time(main())


# --- similar length ---


def sized(queue: JobQueue, *sizes: int) -> None:
    for size in sizes:
        queue.put(new_job(str(size), body=b"x" * size))


def test_the_oldest_job_chooses_those_closest_to_it_in_length(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker(may_prefetch=False)
        queue = queue_with(EagerRule(3))
        queue.lane("predict").length_batching = True
        sized(queue, 50, 3, 52, 900, 49, 4)
        queue.attach(taker)
        while taker.outstanding:
            taker.answer(queue)
        assert [sorted(map(int, batch)) for batch in taker.given] == [[49, 50, 52], [3, 4, 900]]
        assert taker.given[1] == ["3", "900", "4"]  # who stays keeps the order

    virtual_time(main())


def test_without_the_handlers_word_length_means_nothing(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker(may_prefetch=False)
        queue = queue_with(EagerRule(3))
        sized(queue, 50, 3, 900, 51, 49)
        queue.attach(taker)
        assert taker.given == [["50", "3", "900"]]

    virtual_time(main())


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=30), batch_size=st.integers(1, 8))
def test_similar_length_is_fair_and_loses_nothing(sizes: list[int], batch_size: int) -> None:
    async def main() -> None:
        lane = queue_with(EagerRule(batch_size)).lane("predict")
        lane.length_batching = True
        jobs = [new_job(str(number), body=b"x" * size) for number, size in enumerate(sizes)]
        lane.jobs.extend(jobs)
        taken: list[Job] = []
        while lane.jobs:
            before = list(lane.jobs)
            batch = lane.take(batch_size)
            rest = list(lane.jobs)
            taken += batch
            assert batch[0] is before[0]
            assert len(batch) == min(batch_size, len(before))
            assert rest == [job for job in before if job not in batch]
            distances = [abs(job.size_bytes - batch[0].size_bytes) for job in (*batch, *rest)]
            assert max(distances[: len(batch)]) <= min(distances[len(batch) :], default=99)
        assert sorted(map(id, taken)) == sorted(map(id, jobs))

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


# --- jobs that must be alone ---


@pytest.mark.parametrize("length_batching", [False, True])
def test_a_job_marked_alone_shares_no_batch(length_batching: bool, virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker(may_prefetch=False)
        queue = queue_with(EagerRule(4))
        queue.lane("predict").length_batching = length_batching
        for name in ("a", "b", "ALONE1", "ALONE2", "c", "d", "e"):
            queue.put(new_job(name, alone=name.startswith("ALONE")))
        queue.attach(taker)
        while taker.outstanding:
            taker.answer(queue)
        assert [batch for batch in taker.given if any(name.startswith("ALONE") for name in batch)] == [
            ["ALONE1"],
            ["ALONE2"],
        ]
        assert sorted(name for batch in taker.given for name in batch) == ["ALONE1", "ALONE2", "a", "b", "c", "d", "e"]

    virtual_time(main())


# --- prefetch ---


@pytest.mark.parametrize(("service_s", "ahead"), [(0.5, 1), (0.001, 1), (0.0009, 8), (0.0, 1), (0.0001, 8)])
def test_a_busy_worker_gets_full_batches_ahead(service_s: float, ahead: int, virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with(EagerRule(2, service_s), taker)
        put(queue, *(f"{number}" for number in range(41)))
        assert taker.outstanding == 1 + ahead
        assert all(len(batch) == 2 for batch in taker.given[1:])
        taker.answer(queue)
        assert taker.outstanding == 1 + ahead

    virtual_time(main())


def test_what_may_still_grow_is_not_sent_ahead(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with(EagerRule(4), taker)
        put(queue, "running", "a", "b", "c")
        assert taker.given == [["running"]]
        put(queue, "d")
        assert taker.given == [["running"], ["a", "b", "c", "d"]]

    virtual_time(main())


def test_nothing_is_sent_ahead_while_a_worker_is_free(virtual_time: Run) -> None:
    async def main() -> None:
        busy, free = FakeTaker(), FakeTaker()
        queue = queue_with(EagerRule(1), busy)
        put(queue, "a")
        queue.attach(free)
        put(queue, "b")
        assert (busy.given, free.given) == ([["a"]], [["b"]])

    virtual_time(main())


def test_a_free_worker_that_the_rule_lets_wait_keeps_prefetch_away(virtual_time: Run) -> None:
    async def main() -> None:
        busy, free = FakeTaker(), FakeTaker()
        rule = PatientRule(2, delay_s=5)
        queue = queue_with(rule, busy)
        put(queue, "a")
        await asyncio.sleep(5)
        queue.attach(free)
        put(queue, "b", "c", "d")
        assert (busy.given, free.given) == ([["a"]], [])

    virtual_time(main())


def test_nothing_is_sent_ahead_to_the_unwilling(virtual_time: Run) -> None:
    async def main() -> None:
        unwilling, willing = FakeTaker(may_prefetch=False), FakeTaker()
        queue = queue_with(EagerRule(1, service_s=1.0), unwilling, willing)
        put(queue, "a", "b", "c", "d", "e")
        assert (unwilling.given, willing.given) == ([["a"]], [["b"], ["c"]])

    virtual_time(main())


def test_what_is_sent_ahead_goes_to_who_has_least(virtual_time: Run) -> None:
    async def main() -> None:
        takers = [FakeTaker(), FakeTaker()]
        queue = queue_with(EagerRule(1, service_s=0.0001), *takers)
        put(queue, *"abcdef")
        assert [taker.outstanding for taker in takers] == [3, 3]

    virtual_time(main())


@pytest.mark.parametrize("kind", ["explain", "describe"])
def test_only_predictions_are_sent_ahead(kind: RequestKind, virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with(None, taker)
        put(queue, "a", "b", "c", kind=kind)
        assert taker.given == [["a"]]

    virtual_time(main())


def test_a_job_that_must_be_alone_is_not_sent_ahead(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with(EagerRule(1), taker)
        put(queue, "running")
        queue.put(new_job("alone", alone=True))
        put(queue, "behind it")
        assert taker.given == [["running"]]
        taker.answer(queue)
        assert taker.given[1] == ["alone"]

    virtual_time(main())


# --- what rules are asked and told ---


@pytest.mark.parametrize(("devices", "seen"), [(["gpu:0", "gpu:1"], 2), (["gpu:0", "gpu:0"], 1)])
def test_rules_know_how_many_devices_are_free(devices: list[str], seen: int, virtual_time: Run) -> None:
    async def main() -> None:
        rule = PatientRule(8, delay_s=0.05)
        takers = [FakeTaker(device=device) for device in devices]
        queue = queue_with(rule, *takers)
        put(queue, *"abcdef")
        await asyncio.sleep(0.05)
        assert rule.situations[0].free_devices == seen
        shares = [["a", "b", "c"], ["d", "e", "f"]] if seen == 2 else [list("abcdef")]
        assert [batch for taker in takers for batch in taker.given] == shares

    virtual_time(main())


def test_rules_see_arrivals_and_the_asking_workers_freedom(virtual_time: Run) -> None:
    async def main() -> None:
        start_s = asyncio.get_running_loop().time()
        rule = EagerRule(8)
        queue = queue_with(rule)
        put(queue, "a")
        await asyncio.sleep(1)
        put(queue, "b", "c")
        await asyncio.sleep(1)
        queue.attach(FakeTaker())
        (situation,) = rule.situations
        assert (situation.now_s, situation.waiting, situation.in_flight) == (start_s + 2, 3, 0)
        assert (situation.oldest_arrival_s, situation.last_arrival_s) == (start_s, start_s + 1)
        assert situation.free_since_s == start_s + 2

    virtual_time(main())


def test_rules_are_told_of_arrivals_and_of_answered_batches_of_their_kind(virtual_time: Run) -> None:
    async def main() -> None:
        rule, explain = EagerRule(1), EagerRule(1)
        first, second = FakeTaker(may_prefetch=False), FakeTaker(may_prefetch=False)
        queue = queue_with(rule, first, second, explain=explain)
        put(queue, "a", "b", "c")
        put(queue, "x", kind="explain")
        assert (rule.arrivals, explain.arrivals) == ([(1, 2), (2, 2), (3, 2)], [(1, 2)])
        first.answer(queue, 0.5)
        second.die(queue)  # no service time to learn from
        assert (rule.services_s, explain.services_s) == ([0.5], [])

    virtual_time(main())


def test_a_rule_that_waits_is_asked_again_exactly_then(virtual_time: Run) -> None:
    async def main() -> None:
        loop, taker = asyncio.get_running_loop(), FakeTaker()
        queue = queue_with(PatientRule(4, delay_s=0.05), taker)
        put(queue, "a")
        await asyncio.sleep(0.03)
        put(queue, "b")
        await asyncio.sleep(0.0199)
        assert taker.given == []
        await asyncio.sleep(0.0002)
        assert taker.given == [["a", "b"]]
        assert loop.time() < 1000.0502

    virtual_time(main())


def test_delay_counts_from_arrival_and_not_from_when_a_worker_is_free(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with(PatientRule(4, delay_s=0.05))
        put(queue, "a")
        await asyncio.sleep(0.05)
        queue.attach(taker)
        assert taker.given == [["a"]]

    virtual_time(main())


def test_no_timer_is_left_for_jobs_that_are_gone(virtual_time: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        queue = queue_with(PatientRule(4, delay_s=60), FakeTaker())
        jobs = put(queue, "a", "b")
        for job in jobs:
            queue.discard(job)
        assert all(timer.cancelled() for timer in loop._scheduled)

    virtual_time(main())


def test_a_waiting_lane_does_not_hold_up_another(virtual_time: Run) -> None:
    async def main() -> None:
        taker = FakeTaker()
        queue = queue_with(PatientRule(4, delay_s=60), taker)
        put(queue, "waits")
        put(queue, "goes", kind="describe")
        assert taker.given == [["goes"]]

    virtual_time(main())
