"""A model with fake worker slots: who may send requests, when it is ready, and what scaling does."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from serving_fakes import FakeReplica, FakeTaker, Run, ids, new_request, no_metrics

from model_server.config.resolve import ModelSettings
from model_server.config.server import ServerConfig
from model_server.errors import DeadlineExceeded, QueueFull, ServiceUnavailable, WorkersFailed
from model_server.serving.batching import AdaptiveRule, FixedRule
from model_server.serving.model import Host, Model, ModelIdentity
from model_server.serving.placement import Gpu, Placement
from model_server.serving.starter import WorkerStarter
from model_server.serving.store import OpenedArchive
from model_server.wire.messages import Capabilities, ItemResult, RequestKind

NO_WORKER = (
    'Model "m" has no worker to serve inference request. Please use scale workers API to add workers. '
    "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)


def new_model(config: ServerConfig | None = None, gpus: int = 0, **settings: Any) -> Model:
    config = config or ServerConfig()
    placement = Placement([Gpu(number, str(number)) for number in range(gpus)], cores=8)
    host = Host(config, placement, itertools.count(config.initial_worker_port), no_metrics(), WorkerStarter(None))
    archive = OpenedArchive(Path("/archive"), None, None, None)
    return Model(ModelIdentity("m", "1.0", "m.mar", "handler.py", "python"), archive, ModelSettings(**settings), host)


def scaled(model: Model, workers: int, ready: bool = True) -> list[FakeReplica]:
    """Gives the model that many workers; returns its slots."""
    model.scale(workers, workers)
    slots: list[FakeReplica] = list(model.replicas)  # type: ignore[arg-type]  # the fixture makes them fake
    for slot in slots:
        if ready:
            slot.becomes_ready()
    return slots


# --- requests ---


def test_without_workers_requests_are_refused_in_torchserves_words(virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model()
        for kind, version, text in (
            ("predict", None, NO_WORKER),
            ("explain", None, NO_WORKER),
            ("predict", "1.0", NO_WORKER.replace('"m"', '"m" Version 1.0"')),
            (
                "describe",
                None,
                'Model "m" has no worker to serve describe request. Please use scale workers API to add workers.',
            ),
        ):
            request = new_request(kind=kind)  # type: ignore[arg-type]
            request.version = version
            with pytest.raises(ServiceUnavailable) as caught:
                model.submit(request)
            assert caught.value.message == text

    virtual_time(main())


@pytest.mark.parametrize("state", ["starting", "loading", "backing off", "ready"])
def test_requests_wait_for_workers_that_may_come(fake_replicas: Any, virtual_time: Run, state: Any) -> None:
    async def main() -> None:
        model = new_model()
        scaled(model, 1, ready=False)[0].state = state
        model.submit(new_request("a"))
        assert len(model.queue) == 1

    virtual_time(main())


def test_when_every_worker_is_given_up_requests_are_refused_and_the_waiting_answered(
    fake_replicas: Any, virtual_time: Run
) -> None:
    async def main() -> None:
        model = new_model()
        first, second = scaled(model, 2, ready=False)
        waiting = model.submit(new_request("waiting"))
        first.fails(WorkersFailed("no weights"))
        await asyncio.sleep(0)
        assert not waiting.is_over
        second.fails(WorkersFailed("no weights"))
        with pytest.raises(ServiceUnavailable, match="failed to start"):
            await waiting.future
        with pytest.raises(ServiceUnavailable, match="failed to start"):
            model.submit(new_request("late"))

    virtual_time(main())


def test_a_full_queue_is_torchserves_text_and_ours_behind_it(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model(job_queue_size=1)
        scaled(model, 1)
        model.submit(new_request("a"))
        with pytest.raises(QueueFull) as caught:
            model.submit(new_request("b"))
        assert caught.value.message.startswith(NO_WORKER)
        assert "1 requests wait" in caught.value.message
        assert caught.value.retry_after_s >= 1

    virtual_time(main())


def test_predict_gives_the_answer(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model, taker = new_model(), FakeTaker()
        scaled(model, 1)
        model.queue.attach(taker)
        asking = asyncio.create_task(model.predict(new_request("a")))
        await asyncio.sleep(0)
        taker.answer(model.queue)
        assert await asking == ItemResult("a")

    virtual_time(main())


def test_a_client_that_goes_away_takes_its_request_along(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model, taker = new_model(batch_size=4), FakeTaker()
        scaled(model, 1)
        staying = model.submit(new_request("staying"))
        leaving = asyncio.create_task(model.predict(new_request("leaving")))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert len(model.queue) == 1
        model.queue.attach(taker)
        await asyncio.sleep(1)
        assert taker.given == [["staying"]]
        assert not staying.is_over

    virtual_time(main())


def test_a_client_that_goes_away_while_its_request_runs_harms_nobody(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model, taker = new_model(), FakeTaker()
        scaled(model, 1)
        model.queue.attach(taker)
        leaving = asyncio.create_task(model.predict(new_request("leaving")))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        taker.answer(model.queue)
        assert model.queue.outstanding == 0

    virtual_time(main())


def test_a_request_expires_after_the_clients_timeout(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        model, taker = new_model(client_timeout_ms=1500), FakeTaker()
        scaled(model, 1)
        job = model.submit(new_request("late"))
        with pytest.raises(DeadlineExceeded, match="1500 ms"):
            await job.future
        assert loop.time() == 1001.5
        assert len(model.queue) == 0
        model.queue.attach(taker)
        assert taker.given == []

    virtual_time(main())


def test_without_a_timeout_requests_wait(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model(client_timeout_ms=0)
        scaled(model, 1)
        job = model.submit(new_request())
        await asyncio.sleep(100_000)
        assert not job.is_over

    virtual_time(main())


# --- readiness ---


def test_states_from_nothing_to_ready_and_down(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model()
        assert (model.state, model.is_ready, model.is_healthy) == ("STOPPED", False, True)
        first, second = scaled(model, 2, ready=False)
        assert (model.state, model.is_ready, model.is_healthy) == ("LOADING", False, True)
        first.becomes_ready()
        assert (model.state, model.is_ready, model.is_healthy) == ("DEGRADED", False, True)
        second.becomes_ready()
        assert (model.state, model.is_ready, model.is_healthy) == ("READY", True, True)
        second.state = "starting"  # it died, and is being replaced
        assert (model.state, model.is_ready, model.is_healthy) == ("DEGRADED", False, False)
        first.state = second.state = "failed"
        assert (model.state, model.is_ready, model.is_healthy) == ("FAILED", False, False)

    virtual_time(main())


# --- scaling ---


def test_scaling_up_starts_what_is_missing_and_is_done_when_all_are_ready(
    fake_replicas: Any, virtual_time: Run
) -> None:
    async def main() -> None:
        model = new_model()
        scaled(model, 1)
        change = model.scale(3, 5)
        assert (model.settings.min_workers, model.settings.max_workers) == (3, 5)
        assert [slot.id for slot in fake_replicas] == ["9000", "9001", "9002"]
        assert all(slot.is_started for slot in fake_replicas)
        fake_replicas[1].becomes_ready()
        await asyncio.sleep(1)
        assert not change.done()
        fake_replicas[2].becomes_ready()
        assert await change is None

    virtual_time(main())


def test_scaling_ends_with_the_first_worker_that_does_not_come_up(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model()
        change = model.scale(2, 2)
        error = WorkersFailed("no room", status=507)
        fake_replicas[1].fails(error)
        assert await change is error

    virtual_time(main())


def test_scaling_down_removes_the_newest_and_waits_for_their_end(
    fake_replicas: Any, virtual_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        model = new_model()
        slots = scaled(model, 3)
        monkeypatch.setattr(FakeReplica, "stops_at_once", False)
        change = model.scale(1, 1)
        assert model.replicas == (slots[0],)
        await asyncio.sleep(1)
        assert [slot.state for slot in slots] == ["ready", "draining", "draining"]
        assert not change.done()
        slots[1].may_stop.set()
        slots[2].may_stop.set()
        assert await change is None

    virtual_time(main())


def test_between_minimum_and_maximum_nothing_changes(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model()
        slots = scaled(model, 3)
        assert await model.scale(1, 5) is None
        assert list(model.replicas) == slots

    virtual_time(main())


def test_workers_that_were_given_up_are_replaced(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model()
        good, bad = scaled(model, 2)
        bad.state = "failed"
        model.scale(2, 2)
        assert [slot.id for slot in model.replicas] == [good.id, "9002"]
        await asyncio.sleep(0)
        assert bad.state == "stopped"

    virtual_time(main())


def test_ids_are_never_used_twice(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model(ServerConfig(initial_worker_port=7100))
        scaled(model, 2)
        await model.scale(0, 0)
        scaled(model, 1)
        assert [slot.id for slot in model.replicas] == ["7102"]

    virtual_time(main())


def test_devices_are_given_back_when_a_worker_is_gone_and_not_before(
    fake_replicas: Any, virtual_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        model = new_model(gpus=2, device_type="gpu")
        first, second = scaled(model, 2)
        assert [slot.plan.assignment.label for slot in (first, second)] == ["gpu:0", "gpu:1"]
        monkeypatch.setattr(FakeReplica, "stops_at_once", False)
        leaving = model.scale(1, 1)
        await asyncio.sleep(0)
        model.scale(2, 2)
        assert model.replicas[1].plan.assignment.label == "gpu:0"  # gpu:1 is still held
        second.may_stop.set()
        await leaving
        model.scale(3, 3)
        assert model.replicas[2].plan.assignment.label == "gpu:1"

    virtual_time(main())


def test_too_few_devices_change_nothing(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model(gpus=1, device_type="gpu", parallel_level=2)
        with pytest.raises(WorkersFailed, match="No enough gpu devices for model:m parallelLevel:2"):
            model.scale(1, 1)
        assert (model.replicas, model.settings.min_workers, fake_replicas) == ((), 0, [])

    virtual_time(main())


def test_stop_ends_workers_and_answers_whoever_waits(
    fake_replicas: Any, virtual_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        model = new_model()
        (slot,) = scaled(model, 1)
        waiting = model.submit(new_request("waiting"))
        monkeypatch.setattr(FakeReplica, "stops_at_once", False)
        stopping = asyncio.create_task(model.stop())
        await asyncio.sleep(1)
        with pytest.raises(ServiceUnavailable, match="being unregistered"):
            model.submit(new_request("late"))
        assert not waiting.is_over
        slot.may_stop.set()
        await stopping
        with pytest.raises(ServiceUnavailable, match=re.escape(NO_WORKER)):
            await waiting.future
        await model.stop()

    virtual_time(main())


# --- what a worker is told ---


def test_the_plan_of_a_worker_says_what_is_configured(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        config = ServerConfig(
            service_envelope="body",
            decode_input_request=False,
            limit_max_image_pixels=False,
            max_response_size_bytes=99,
            python="/usr/bin/python3",
        )
        model = new_model(
            config,
            batch_size=4,
            response_timeout_s=7,
            explanation_timeout_s=70,
            startup_timeout_s=8,
            max_retry_timeout_s=9,
        )
        (slot,) = scaled(model, 1)
        load, plan = slot.plan.load, slot.plan
        assert (load.model_name, load.model_dir, load.handler, load.batch_size) == ("m", "/archive", "handler.py", 4)
        assert (load.gpu_id, load.envelope) == (None, "body")
        assert (load.decode_input_request, load.limit_max_image_pixels) == (False, False)
        assert (load.max_response_size_bytes, load.retry_on_error) == (99, True)
        assert (plan.startup_timeout_s, plan.retry_window_s, plan.retry_on_worker_death) == (8, 9, True)
        assert plan.timeouts_s == {"predict": 7, "explain": 70, "describe": 7}
        assert (plan.command().python, plan.command().name) == ("/usr/bin/python3", "W-9000-m_1.0")

    virtual_time(main())


@pytest.mark.parametrize(
    ("settings", "on_error", "on_death"),
    [
        ({"retry_on_error": False}, False, True),
        ({"retry_on_worker_death": False}, True, False),
        ({"stateful": True}, False, False),
    ],
)
def test_what_must_not_be_repeated_is_not(
    fake_replicas: Any, virtual_time: Run, settings: dict[str, bool], on_error: bool, on_death: bool
) -> None:
    async def main() -> None:
        (slot,) = scaled(new_model(**settings), 1)
        assert (slot.plan.load.retry_on_error, slot.plan.retry_on_worker_death) == (on_error, on_death)

    virtual_time(main())


def test_environment_is_the_servers_without_what_is_hidden(
    fake_replicas: Any, virtual_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MY_SECRET": "x", "MY_SECRETS": "kept", "PLAIN": "y", "OMP_NUM_THREADS": ""}.items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        model = new_model(ServerConfig(blacklist_env_vars=re.compile(r"MY_SECRET|NOTHING")))
        slots = scaled(model, 2)
        environment = slots[0].plan.command().environment
        assert "MY_SECRET" not in environment
        assert (environment["MY_SECRETS"], environment["PLAIN"]) == ("kept", "y")
        assert (environment["CUDA_VISIBLE_DEVICES"], environment["TOKENIZERS_PARALLELISM"]) == ("", "false")
        assert environment["OMP_NUM_THREADS"] == "4"  # 8 cores, 2 workers
        await model.scale(1, 1)
        assert slots[0].plan.command().environment["OMP_NUM_THREADS"] == "8"  # asked anew for every start

    virtual_time(main())


# --- batching ---


@pytest.mark.parametrize(("policy", "rule"), [("adaptive", AdaptiveRule), ("fixed", FixedRule)])
def test_predictions_are_batched_and_the_rest_goes_alone(virtual_time: Run, policy: str, rule: type) -> None:
    async def main() -> None:
        queue = new_model(batch_size=8, batching_policy=policy).queue
        kinds: list[RequestKind] = ["predict", "explain", "describe"]
        assert [queue.lane(kind).rule.batch_size for kind in kinds] == [8, 1, 1]
        assert all(isinstance(queue.lane(kind).rule, rule) for kind in kinds)

    virtual_time(main())


def test_what_the_handler_can_do_changes_how_its_requests_are_batched(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model(batch_size=8)
        (slot,) = scaled(model, 1, ready=False)
        assert not model.queue.lane("predict").length_batching
        slot.becomes_ready(Capabilities(length_batching=True, batch_explanations=True))
        assert model.queue.lane("predict").length_batching
        assert model.queue.lane("explain").rule.batch_size == 8
        assert model.queue.lane("describe").rule.batch_size == 1

    virtual_time(main())


def test_waiting_jobs_stay_when_a_model_is_scaled_to_nothing(fake_replicas: Any, virtual_time: Run) -> None:
    async def main() -> None:
        model = new_model()
        scaled(model, 1)
        job = model.submit(new_request("patient"))
        await model.scale(0, 0)
        assert not job.is_over
        assert ids(list(model.queue.lane("predict").jobs)) == ["patient"]

    virtual_time(main())
