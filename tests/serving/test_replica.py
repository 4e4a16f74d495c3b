"""A replica with real processes that run a fake worker, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving_fakes import DEADLINE_S, EagerRule, Run, ids, new_job, no_metrics

from model_server.errors import WorkerDied, WorkersFailed
from model_server.serving import process, replica
from model_server.serving.jobs import Job
from model_server.serving.placement import Assignment
from model_server.serving.process import WorkerCommand
from model_server.serving.queue import JobQueue
from model_server.serving.replica import MAX_LOAD_ATTEMPTS, LoadFailed, Replica, ReplicaPlan
from model_server.serving.starter import WorkerStarter
from model_server.wire.messages import Capabilities, Load

pytestmark = pytest.mark.usefixtures("no_process_left")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "BACK_OFF_S", (0.001, 0.002))
    monkeypatch.setattr(process, "_STACK_DUMP_S", 0.1)


class Stage:
    """A folder that scripts fake workers, and everything a replica needs to run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loads("ok")
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent}/fake_worker.py "$@"\n')
        self.python.chmod(0o755)
        self.learned: list[Capabilities] = []
        self.hopeless = asyncio.Event()

    def loads(self, *words: str) -> None:
        (self.folder / "loads").write_text(" ".join(words))

    def go(self) -> None:
        (self.folder / "go").touch()

    @property
    def starts(self) -> int:
        return len((self.folder / "starts").read_text().splitlines())

    def command(self) -> WorkerCommand:
        environment = {"FAKE_WORKER": str(self.folder), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
        return WorkerCommand(str(self.python), "W-9000-m_1.0", environment)

    def plan(self, **changes: Any) -> ReplicaPlan:
        plan = {
            "name": "W-9000-m_1.0",
            "load": Load("m", str(self.folder), "handler", 4),
            "command": self.command,
            "starter": WorkerStarter(None),
            "assignment": Assignment(),
            "startup_timeout_s": DEADLINE_S,
            "timeouts_s": {"predict": DEADLINE_S, "explain": DEADLINE_S, "describe": DEADLINE_S},
            "retry_window_s": 300,
            "retry_on_worker_death": True,
            "metrics": no_metrics().for_model("m", "1.0"),
        }
        return ReplicaPlan(**{**plan, **changes})

    @contextlib.asynccontextmanager
    async def replica(self, batch_size: int = 1, **changes: Any) -> AsyncIterator[tuple[Replica, JobQueue]]:
        """A started replica and its queue; it is stopped at once in the end."""
        queue = JobQueue(100, {"predict": EagerRule(batch_size), "explain": EagerRule(1), "describe": EagerRule(1)})
        slot = Replica("9000", self.plan(**changes), queue, self.learned.append, self.hopeless.set)
        slot.start()
        try:
            yield slot, queue
        finally:
            stopping = asyncio.create_task(slot.stop())
            await asyncio.sleep(0)
            stopping.cancel()
            await until(lambda: slot.state in ("stopped", "failed"))
            assert slot.pid == -1


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def until(condition: Callable[[], Any]) -> None:
    """Waits until `condition` holds; the deadline is that of the whole test."""
    while not condition():
        await asyncio.sleep(0.005)


async def settled(slot: Replica) -> Any:
    return await asyncio.wait_for(asyncio.shield(slot.settled), DEADLINE_S)


def put(queue: JobQueue, *words: str) -> list[Job]:
    jobs = [new_job(word, word.encode()) for word in words]
    for job in jobs:
        queue.put(job)
    return jobs


async def answer_of(job: Job) -> bytes:
    return bytes((await job.future).body)


async def error_of(job: Job) -> WorkerDied:
    with pytest.raises(WorkerDied) as caught:
        await job.future
    return caught.value


# --- from start to stop ---


def test_a_life_from_start_to_stop(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, queue):
            assert (slot.state, slot.pid, slot.memory_bytes(), slot.is_first_start) == ("starting", -1, 0, True)
            assert await settled(slot) is None
            assert (slot.state, slot.reason, slot.is_first_start) == ("ready", None, False)
            assert stage.learned == [Capabilities(length_batching=True)]
            assert psutil.pid_exists(slot.pid)
            assert slot.memory_bytes() > 1_000_000
            (job,) = put(queue, "hello")
            assert await answer_of(job) == b"HELLO"
            pid = slot.pid
            await slot.stop()
            assert (slot.state, slot.pid, slot.memory_bytes()) == ("stopped", -1, 0)
            assert not psutil.pid_exists(pid)
            await slot.stop()  # twice is once
            assert stage.starts == 1

    real_time(main())


def test_what_the_worker_prints_is_logged_under_its_name(
    stage: Stage, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, _):
            await settled(slot)
            await until(lambda: ("W-9000-m_1.0-stdout", "printed by the worker") in said())

    def said() -> list[tuple[str | None, str]]:
        return [(record.threadName, record.getMessage()) for record in caplog.records]

    caplog.set_level(logging.INFO)
    real_time(main())


def test_stop_before_start_does_nothing(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        queue = JobQueue(1, {"predict": EagerRule()})
        slot = Replica("9000", stage.plan(), queue, stage.learned.append, stage.hopeless.set)
        await slot.stop()
        assert slot.state == "starting"

    real_time(main())


@pytest.mark.parametrize("loads", ["ok", "hangs"])
def test_stop_right_after_start(stage: Stage, real_time: Run, loads: str) -> None:
    async def main() -> None:
        stage.loads(loads)
        async with stage.replica() as (slot, _):
            await asyncio.sleep(0)
            await slot.stop()
            assert slot.state == "stopped"
            assert isinstance(await settled(slot), WorkersFailed)

    real_time(main())


def test_stop_while_loading_kills_at_once(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        stage.loads("hangs")
        async with stage.replica() as (slot, _):
            await until(lambda: slot.state == "loading" and (stage.folder / "starts").exists())
            await slot.stop()
            assert slot.state == "stopped"
            assert "stopped before it was ready" in str(await settled(slot))

    real_time(main())


def test_stop_while_backing_off(stage: Stage, real_time: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        stage.loads("fails")
        async with stage.replica() as (slot, _):
            await until(lambda: slot.state == "backing off")
            await slot.stop()
            assert (slot.state, stage.starts) == ("stopped", 1)

    monkeypatch.setattr(replica, "BACK_OFF_S", (600,))
    real_time(main())


# --- loading fails ---


def test_a_model_that_never_loads_is_tried_five_times(
    stage: Stage, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        stage.loads("fails")
        async with stage.replica() as (slot, _):
            error = await settled(slot)
            assert isinstance(error, LoadFailed)
            assert (error.status, error.message) == (507, "RuntimeError: no room on the device")
            await until(lambda: slot.state == "failed")
            assert (stage.starts, MAX_LOAD_ATTEMPTS) == (5, 5)
            assert stage.hopeless.is_set()
            assert slot.reason == "RuntimeError: no room on the device"
            await slot.stop()
            assert slot.state == "failed"

    caplog.set_level(logging.INFO)
    real_time(main())
    assert caplog.text.count("Retry worker: 9000 in") == 4


def test_back_off_is_torchserves_and_stays_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    fibonacci = [1, 1]
    while fibonacci[-1] < 1597:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert list(replica.BACK_OFF_S) == [1, *fibonacci[1:]]


def test_no_more_attempts_after_the_retry_window(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        stage.loads("fails")
        async with stage.replica(retry_window_s=0) as (slot, _):
            await until(lambda: slot.state == "failed")
            assert stage.starts == 1

    real_time(main())


def test_a_model_that_loads_in_the_end_is_ready(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        stage.loads("fails", "exits", "ok")
        async with stage.replica() as (slot, queue):
            assert isinstance(await settled(slot), LoadFailed)  # the first attempt is what registration waits for
            await until(lambda: slot.state == "ready")
            assert (slot.reason, stage.starts) == (None, 3)
            assert not stage.hopeless.is_set()
            (job,) = put(queue, "hello")
            assert await answer_of(job) == b"HELLO"

    real_time(main())


def test_attempts_are_counted_anew_after_success(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        stage.loads(*["fails"] * 4, "ok", *["fails"] * 4, "ok")
        async with stage.replica() as (slot, queue):
            await until(lambda: slot.state == "ready")
            assert await answer_of(put(queue, "hello")[0]) == b"HELLO"
            os.kill(slot.pid, signal.SIGKILL)
            await until(lambda: stage.starts == 10 and slot.state == "ready")

    real_time(main())


def test_a_worker_that_dies_again_and_again_before_it_answers_is_given_up(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, queue):
            for start in range(1, MAX_LOAD_ATTEMPTS + 1):
                await until(lambda start=start: slot.state == "ready" and stage.starts == start)
                os.kill(slot.pid, signal.SIGKILL)
            await until(lambda: slot.state == "failed")
            assert slot.reason is not None and "SIGKILL" in slot.reason
            assert queue.outstanding == 0

    real_time(main())


@pytest.mark.parametrize(
    ("load", "status", "text"),
    [("killed", 507, "SIGKILL"), ("exits", 500, "exited with status 9"), ("interrupted", 500, "ended by SIGINT")],
)
def test_death_while_loading_names_how_it_ended(
    stage: Stage, real_time: Run, load: str, status: int, text: str
) -> None:
    async def main() -> None:
        stage.loads(load)
        async with stage.replica() as (slot, _):
            error = await settled(slot)
            assert (type(error), error.status) == (LoadFailed, status)
            assert text in error.message

    real_time(main())


def test_garbage_while_loading_is_no_lack_of_memory(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        stage.loads("garbage")
        async with stage.replica() as (slot, _):
            error = await settled(slot)
            assert error.status == 500
            assert "memory" not in error.message

    real_time(main())


def test_a_load_that_takes_too_long_is_given_up(stage: Stage, real_time: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stage.loads("hangs")
        async with stage.replica(startup_timeout_s=0.5, retry_window_s=0) as (slot, _):
            error = await settled(slot)
            assert error.status == 500
            assert "0.5 s (startup_timeout)" in error.message
            await until(lambda: slot.state == "failed")

    real_time(main())
    assert "Backend worker did not respond in given time" in caplog.text
    assert "in hang_for_ever" in caplog.text  # its Python stack


def test_an_interpreter_that_is_not_there_is_a_load_failure(stage: Stage, real_time: Run, tmp_path: Path) -> None:
    async def main() -> None:
        command = WorkerCommand(str(tmp_path / "no_python"), "W", {})
        async with stage.replica(command=lambda: command) as (slot, _):
            error = await settled(slot)
            assert isinstance(error, LoadFailed)
            assert "No such file" in error.message

    real_time(main())


# --- death ---


def test_an_idle_worker_that_dies_is_replaced_at_once(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, queue):
            await settled(slot)
            first = slot.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: slot.state == "ready" and slot.pid != first)
            assert slot.reason is None
            (job,) = put(queue, "hello")
            assert await answer_of(job) == b"HELLO"
            assert job.deaths == 0

    real_time(main())


@pytest.mark.parametrize(("order", "status", "text"), [("kill", 507, "SIGKILL"), ("exit", 500, "exited with status 9")])
def test_a_request_that_kills_two_workers_is_answered(
    stage: Stage, real_time: Run, order: str, status: int, text: str
) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, queue):
            await settled(slot)
            (job,) = put(queue, order)
            error = await error_of(job)
            assert error.status == status
            assert error.message.startswith("Worker died.") and text in error.message
            assert (job.deaths, job.alone) == (2, True)
            await until(lambda: slot.state == "ready")
            assert stage.starts == 3
            assert queue.outstanding == 0

    real_time(main())


def test_the_others_of_a_deadly_batch_are_answered(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica(batch_size=4) as (_, queue):
            jobs = put(queue, "a", "b", "kill", "c")  # the worker is not there yet: they will share a batch
            assert [await answer_of(job) for job in (jobs[0], jobs[1], jobs[3])] == [b"A", b"B", b"C"]
            assert (await error_of(jobs[2])).status == 507
            assert [job.deaths for job in jobs] == [1, 1, 2, 1]
            assert stage.starts == 3

    real_time(main())


def test_what_was_only_sent_ahead_is_not_blamed(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, queue):
            await settled(slot)
            running, ahead = put(queue, "wait", "ahead")
            await until(lambda: (stage.folder / "waiting").exists())
            assert len(queue) == 0
            os.kill(slot.pid, signal.SIGKILL)
            stage.go()
            assert [await answer_of(job) for job in (running, ahead)] == [b"WAIT", b"AHEAD"]
            assert [(job.deaths, job.alone) for job in (running, ahead)] == [(1, True), (0, False)]

    real_time(main())


def test_without_retry_the_first_death_is_the_answer(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica(batch_size=2, retry_on_worker_death=False) as (slot, queue):
            jobs = put(queue, "kill", "beside it")
            for job in jobs:
                error = await error_of(job)
                assert error.status == 507
                assert "second" not in error.message
            await until(lambda: slot.state == "ready")
            assert stage.starts == 2

    real_time(main())


def test_what_a_worker_started_ends_with_it(stage: Stage, real_time: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without uvloop a process counts as running while a child of it holds its output open.
    monkeypatch.setattr(process, "_EXIT_S", 0.5)

    async def main() -> None:
        async with stage.replica() as (slot, queue):
            await settled(slot)
            (job,) = put(queue, "child")
            await answer_of(job)
            (child,) = psutil.Process(slot.pid).children()
            os.kill(slot.pid, signal.SIGKILL)
            await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)

    real_time(main())


# --- nonsense and silence ---


@pytest.mark.parametrize("order", ["garbage", "short"])
def test_a_worker_that_talks_nonsense_is_replaced(stage: Stage, real_time: Run, order: str) -> None:
    async def main() -> None:
        async with stage.replica(batch_size=2) as (slot, queue):
            jobs = put(queue, order, "fine")
            error = await error_of(jobs[0])
            assert error.status == 500
            assert error.message.startswith("Worker died.") and "memory" not in error.message
            assert await answer_of(jobs[1]) == b"FINE"
            await until(lambda: slot.state == "ready")
            assert queue.outstanding == 0

    real_time(main())


def test_a_request_that_hangs_is_answered_when_its_time_is_up(
    stage: Stage, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with stage.replica(timeouts_s={"predict": 0.3, "explain": 60, "describe": 60}) as (slot, queue):
            await settled(slot)
            hanging, behind = put(queue, "hang", "behind")
            error = await error_of(hanging)
            assert error.status == 500
            assert error.message.startswith("Worker died.") and "0.3 s (responseTimeout)" in error.message
            assert await answer_of(behind) == b"BEHIND"
            assert (behind.deaths, stage.starts) == (0, 2)

    caplog.set_level(logging.INFO)
    real_time(main())
    assert "Backend worker did not respond in given time" in caplog.text
    assert "in hang_for_ever" in caplog.text


def test_the_others_of_a_batch_that_hangs_run_alone_with_fresh_time(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica(batch_size=3, timeouts_s=dict.fromkeys(("predict", "explain"), 0.3)) as (_, queue):
            first, hanging, last = put(queue, "a", "hang", "c")
            assert [await answer_of(first), await answer_of(last)] == [b"A", b"C"]
            assert "responseTimeout" in (await error_of(hanging)).message
            assert stage.starts == 3 or stage.starts == 2

    real_time(main())


# --- stopping ---


def test_stop_lets_the_worker_finish_and_takes_nothing_new(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, queue):
            await settled(slot)
            running, ahead = put(queue, "wait", "ahead")
            await until(lambda: (stage.folder / "waiting").exists())
            stopping = asyncio.create_task(slot.stop())
            await until(lambda: slot.state == "draining")
            (late,) = put(queue, "late")
            stage.go()
            assert [await answer_of(job) for job in (running, ahead)] == [b"WAIT", b"AHEAD"]
            await stopping
            assert (slot.state, stage.starts, late.is_over, len(queue)) == ("stopped", 1, False, 1)

    real_time(main())


@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_a_stop_that_may_wait_no_longer_puts_the_jobs_back(how: str, stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, queue):
            await settled(slot)
            (job,) = put(queue, "wait")
            await until(lambda: (stage.folder / "waiting").exists())
            pid = slot.pid
            stopping = asyncio.create_task(slot.stop())
            await until(lambda: slot.state == "draining")
            slot.kill() if how == "killed" else stopping.cancel()
            await asyncio.wait([stopping])
            assert slot.state == "stopped" and not psutil.pid_exists(pid)
            assert (ids(list(queue.lane("predict").jobs)), job.is_over) == (["wait"], False)
            assert queue.outstanding == 1

    real_time(main())


def test_a_worker_that_dies_while_it_is_stopped_loses_nothing(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica() as (slot, queue):
            await settled(slot)
            (job,) = put(queue, "wait")
            await until(lambda: (stage.folder / "waiting").exists())
            stopping = asyncio.create_task(slot.stop())
            await until(lambda: slot.state == "draining")
            os.kill(slot.pid, signal.SIGKILL)
            await stopping
            assert (slot.state, stage.starts) == ("stopped", 1)
            assert (ids(list(queue.lane("predict").jobs)), job.deaths, queue.outstanding) == (["wait"], 1, 1)

    real_time(main())


def test_a_worker_that_hangs_while_it_is_stopped_is_killed(stage: Stage, real_time: Run) -> None:
    async def main() -> None:
        async with stage.replica(timeouts_s={"predict": 0.3}) as (slot, queue):
            await settled(slot)
            (job,) = put(queue, "hang")
            await slot.stop()
            assert slot.state == "stopped"
            assert "responseTimeout" in (await error_of(job)).message
            assert queue.outstanding == 0

    real_time(main())


def test_a_worker_that_does_not_end_when_told_is_killed(
    stage: Stage, real_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        (stage.folder / "ignore_stop").touch()
        async with stage.replica() as (slot, _):
            await settled(slot)
            pid = slot.pid
            await slot.stop()
            assert slot.state == "stopped" and not psutil.pid_exists(pid)

    monkeypatch.setattr(process, "_EXIT_S", 0.1)
    real_time(main())
