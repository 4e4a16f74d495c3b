"""Jobs are answered once, by whoever is first."""

import asyncio

import pytest
from serving_fakes import Run, new_job

from model_server.errors import DeadlineExceeded, WorkerDied
from model_server.serving.jobs import InferenceRequest, Job
from model_server.wire.messages import ItemResult, Part, PredictItem


def test_the_first_answer_counts(virtual_time: Run) -> None:
    async def main() -> None:
        job = new_job()
        assert not job.is_over
        job.answer(ItemResult("first"))
        job.answer(ItemResult("second"))
        job.fail(WorkerDied("late"))
        job.expire(5)
        assert job.is_over
        assert (await job.future).id == "first"

    virtual_time(main())


def test_a_cancelled_job_takes_no_answer(virtual_time: Run) -> None:
    async def main() -> None:
        job = new_job()
        job.future.cancel()
        job.answer(ItemResult("late"))
        job.fail(WorkerDied("late"))
        assert job.is_over and job.future.cancelled()

    virtual_time(main())


def test_an_expired_job_is_a_504_that_names_the_limit(virtual_time: Run) -> None:
    async def main() -> None:
        job = new_job()
        job.expire(250)
        with pytest.raises(DeadlineExceeded, match=r"250 ms .*clientTimeoutInMills") as caught:
            await job.future
        assert caught.value.status == 504

    virtual_time(main())


def test_size_and_item_are_those_of_the_request(virtual_time: Run) -> None:
    async def main() -> None:
        parts = [Part("a", b"123"), Part("b", bytearray(b"45")), Part("c", b"")]
        request = InferenceRequest("id", "explain", [("H", "v")], parts)
        job = Job(request, asyncio.get_running_loop().create_future(), 0.0)
        assert job.size_bytes == 5
        assert job.item == PredictItem("id", [("H", "v")], parts)

    virtual_time(main())
