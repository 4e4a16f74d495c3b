"""Names, versions and transactions of the registry: archives on disk, fake worker slots."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest
from registry_site import Site
from serving_fakes import FakeReplica, Run, new_request

from model_server.config.resolve import RegisterOverrides
from model_server.config.server import DownloadRules, ModelOverrides, StartupModel
from model_server.errors import (
    BadRequest,
    Conflict,
    DefaultVersionInUse,
    InvalidModel,
    ModelNotFound,
    ModelVersionNotFound,
    RequestTimeout,
    ServerError,
    ServiceUnavailable,
    WorkersFailed,
)
from model_server.serving.model import Model
from model_server.serving.registry import RegisterRequest, Registry

WORKERS = RegisterOverrides(initial_workers=1)


@pytest.fixture
def site(tmp_path: Path, fake_replicas: Any) -> Site:
    return Site(tmp_path)


async def register(registry: Registry, url: str, **fields: Any) -> Model:
    return await registry.register(RegisterRequest(url, **fields))


def names(registry: Registry) -> list[tuple[str, str]]:
    return [(model.identity.name, model.identity.version) for model in registry]


async def slots(count: int) -> list[FakeReplica]:
    """The slots made so far, once there are `count`."""
    while len(FakeReplica.made) < count:
        await asyncio.sleep(0.001)
    return FakeReplica.made


# --- names and versions ---


def test_the_manifest_names_what_the_request_does_not(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        model = await register(registry, site.pack("a.mar", name="packed", version="3.1"))
        assert (model.identity.name, model.identity.version, model.identity.url) == ("packed", "3.1", "a.mar")
        assert (model.identity.handler, model.identity.runtime) == ("handler.py", "python")
        assert not model.identity.loaded_at_startup
        overrides = RegisterOverrides(runtime="python3")
        other = await register(registry, "a.mar", model_name="asked", handler="other:fn", overrides=overrides)
        assert (other.identity.name, other.identity.handler, other.identity.runtime) == ("asked", "other:fn", "python3")
        assert registry.get("packed") is model and registry.get("asked") is other

    real_time(main())


def test_an_archive_without_manifest_needs_name_and_handler(site: Site, real_time: Run) -> None:
    async def main() -> None:
        (site.folder / "bare").mkdir()
        (site.folder / "bare/weights.bin").touch()
        registry = site.registry()
        with pytest.raises(InvalidModel, match=r"^Model name is not defined\."):
            await register(registry, "bare")
        with pytest.raises(InvalidModel, match="does not say which handler"):
            await register(registry, "bare", model_name="m")
        model = await register(registry, "bare", model_name="m", handler="base_handler")
        assert model.identity.version == "1.0"
        default = site.registry(default_service_handler="base_handler")
        assert (await register(default, "bare", model_name="m")).identity.handler == "base_handler"

    real_time(main())


def test_a_startup_model_takes_its_name_from_the_file_in_the_end(site: Site, real_time: Run) -> None:
    async def main() -> None:
        (site.folder / "my-model").mkdir()
        (site.folder / "my-model/weights.bin").touch()
        registry = site.registry(default_service_handler="base_handler")
        model = await registry.register_at_startup(StartupModel(None, "my-model"))
        named = await registry.register_at_startup(StartupModel("named", site.pack("a.mar")))
        assert (model.identity.name, named.identity.name) == ("my_model", "named")
        assert model.identity.loaded_at_startup
        assert registry.startup_models == ["my_model", "named"]
        assert FakeReplica.made == []  # workers come later, when all models are known

    real_time(main())


@pytest.mark.parametrize("name", ["a/b", "../a", "a b", "a\nb", ".a", "-a", "é", "a" * 129])
def test_names_that_no_url_could_reach_are_refused(site: Site, real_time: Run, name: str) -> None:
    async def main() -> None:
        registry = site.registry()
        url = site.pack("a.mar")
        with pytest.raises(BadRequest, match="Model name"):
            await register(registry, url, model_name=name)
        assert (names(registry), site.unpacked) == ([], 0)

    real_time(main())


@pytest.mark.parametrize("version", ["a/b", "a b", "1\n0", "v" * 129])
def test_versions_that_no_url_could_reach_are_refused(site: Site, real_time: Run, version: str) -> None:
    async def main() -> None:
        registry = site.registry()
        with pytest.raises(BadRequest, match="Model version"):
            await register(registry, site.pack("a.mar", version=version))
        assert (names(registry), site.unpacked) == ([], 0)

    real_time(main())


def test_the_first_version_is_the_default_until_another_is_set(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        second = await register(registry, site.pack("2.mar", version="2.0"))
        first = await register(registry, site.pack("1.mar", version="1.0"))
        assert registry.get("m") is second
        assert registry.get("m", "1.0") is first
        assert registry.versions("m") == [second, first]
        registry.set_default("m", "1.0")
        assert registry.get("m") is first
        assert registry.default_models() == [first]

    real_time(main())


def test_what_is_not_there_is_a_404_in_torchserves_words(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        await register(registry, site.pack("a.mar"))
        for attempt in (
            lambda: registry.get("x"),
            lambda: registry.versions("x"),
            lambda: registry.set_default("x", "1"),
        ):
            with pytest.raises(ModelNotFound, match=r"^Model not found: x$"):
                attempt()
        with pytest.raises(ModelVersionNotFound, match=r"^Model version: 9 does not exist for model: m$"):
            registry.get("m", "9")
        with pytest.raises(ModelVersionNotFound, match=r"^Model version 9 does not exist for model m$"):
            registry.set_default("m", "9")
        with pytest.raises(ModelNotFound):
            await registry.unregister("x")
        with pytest.raises(ModelVersionNotFound):
            await registry.unregister("m", "9")

    real_time(main())


def test_default_models_are_sorted_by_name(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        for name in ("b", "c", "a"):
            await register(registry, site.pack(f"{name}.mar", name=name))
        assert [model.identity.name for model in registry.default_models()] == ["a", "b", "c"]

    real_time(main())


def test_the_same_version_twice_is_a_conflict_also_in_parallel(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        url = site.pack("a.mar")
        outcomes = await asyncio.gather(*(register(registry, url) for _ in range(5)), return_exceptions=True)
        conflicts = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
        assert len(conflicts) == 4
        assert conflicts[0].message == "Model version 1.0 is already registered for model m"
        assert (names(registry), site.unpacked) == ([("m", "1.0")], 1)

    real_time(main())


# --- registration is a transaction ---


def test_without_workers_a_model_is_only_registered(site: Site, real_time: Run) -> None:
    async def main() -> None:
        model = await register(site.registry(), site.pack("a.mar"))
        assert (model.settings.min_workers, FakeReplica.made) == (0, [])

    real_time(main())


def test_a_synchronous_registration_waits_for_all_workers(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        overrides = RegisterOverrides(initial_workers=2, batch_size=8)
        registering = asyncio.create_task(register(registry, site.pack("a.mar"), overrides=overrides))
        first, second = await slots(2)
        first.becomes_ready()
        await asyncio.sleep(0)
        assert not registering.done()
        second.becomes_ready()
        model = await registering
        assert (model.state, model.settings.batch_size) == ("READY", 8)

    real_time(main())


def test_a_synchronous_registration_that_fails_leaves_nothing(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        registering = asyncio.create_task(register(registry, site.pack("a.mar"), overrides=WORKERS))
        (slot,) = await slots(1)
        job = registry.get("m").submit(new_request())
        slot.fails(WorkersFailed("no room", status=507))
        with pytest.raises(WorkersFailed) as caught:
            await registering
        assert caught.value.status == 507
        assert caught.value.message == "Failed to start workers for model m version: 1.0. no room"
        assert (names(registry), site.unpacked) == ([], 0)
        with pytest.raises(ServiceUnavailable):
            await job.future
        again = asyncio.create_task(register(registry, "a.mar", overrides=WORKERS))
        (await slots(2))[1].becomes_ready()
        assert (await again).state == "READY"

    real_time(main())


@pytest.mark.parametrize("synchronous", [True, False])
def test_nobody_misses_what_was_never_registered(site: Site, real_time: Run, synchronous: bool) -> None:
    """The server is healthy in every turn of the event loop, unless a model stays that has no worker."""

    async def main() -> None:
        registry = site.registry()
        url = site.pack("a.mar")
        registering = asyncio.create_task(register(registry, url, overrides=WORKERS, synchronous=synchronous))
        (slot,) = await slots(1)
        slot.fails(WorkersFailed("no room"))
        seen = {registry.is_healthy}
        while not registering.done():
            await asyncio.sleep(0)
            seen.add(registry.is_healthy)
        await asyncio.wait([registering])
        assert (registering.exception() is None) != synchronous
        assert registry.is_healthy is synchronous
        assert seen == {True} or not synchronous

    real_time(main())


def test_a_default_version_that_fails_leaves_its_place_to_the_next(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        failing = asyncio.create_task(register(registry, site.pack("1.mar", version="1.0"), overrides=WORKERS))
        (slot,) = await slots(1)
        other = await register(registry, site.pack("2.mar", version="2.0"))
        slot.fails(WorkersFailed("no room"))
        with pytest.raises(WorkersFailed):
            await failing
        assert registry.get("m") is other

    real_time(main())


def test_an_asynchronous_registration_stays_whatever_becomes_of_its_workers(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        model = await register(registry, site.pack("a.mar"), overrides=WORKERS, synchronous=False)
        (slot,) = await slots(1)
        assert model.state == "LOADING"
        slot.fails(WorkersFailed("no room"))
        await asyncio.sleep(0.01)
        assert (registry.get("m"), model.state) == (model, "FAILED")

    real_time(main())


def test_a_cancelled_registration_leaves_nothing(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        registering = asyncio.create_task(register(registry, site.pack("a.mar"), overrides=WORKERS))
        (slot,) = await slots(1)
        registering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await registering
        assert (names(registry), site.unpacked, slot.state) == ([], 0, "stopped")

    real_time(main())


def test_too_few_devices_leave_nothing(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry(gpus=1)
        url = site.pack("a.mar", yaml="minWorkers: 1\ndeviceType: gpu\nparallelType: pp\nparallelLevel: 2\n")
        with pytest.raises(WorkersFailed, match=r"^No enough gpu devices for model:m parallelLevel:2"):
            await register(registry, url)
        assert (names(registry), site.unpacked, FakeReplica.made) == ([], 0, [])

    real_time(main())


def test_a_c_plus_plus_handler_is_refused_with_the_reason(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        with pytest.raises(InvalidModel, match=r"runtime LSP: its handler is a C\+\+ library"):
            await register(registry, site.pack("a.mar"), overrides=RegisterOverrides(runtime="LSP"))
        assert (names(registry), site.unpacked) == ([], 0)

    real_time(main())


def test_a_bad_archive_leaves_other_models_alone(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        await register(registry, site.pack("a.mar"))
        (site.folder / "bad.mar").write_bytes(b"garbage")
        with pytest.raises(InvalidModel):
            await register(registry, "bad.mar", model_name="m2")
        assert (names(registry), site.unpacked) == ([("m", "1.0")], 1)

    real_time(main())


def test_settings_come_from_request_archive_and_table(
    site: Site, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        table = {"m": {"9.9": ModelOverrides(batch_size=2, max_batch_delay_ms=7, response_timeout_s=70)}}
        registry = site.registry(models=table)
        url = site.pack("a.mar", yaml="batchSize: 4\nresponseTimeout: 44\n")
        settings = (await register(registry, url, overrides=RegisterOverrides(batch_size=16))).settings
        assert (settings.batch_size, settings.max_batch_delay_ms, settings.response_timeout_s) == (16, 7, 44)

    real_time(main())
    assert re.search(r"Model m: .*9\.9.*1\.0", caplog.text)  # the version of the entry is another one


# --- scaling and unregistering ---


def test_scaling_waits_only_when_it_is_told_to(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        await register(registry, site.pack("a.mar"))
        await registry.scale("m", None, 1, 1, synchronous=False)
        (first,) = await slots(1)
        assert first.is_started and first.state == "starting"
        scaling = asyncio.create_task(registry.scale("m", "1.0", 2, 2, synchronous=True))
        await slots(2)
        await asyncio.sleep(0)
        assert not scaling.done()
        FakeReplica.made[1].becomes_ready()
        await scaling

    real_time(main())


@pytest.mark.parametrize(("version", "shown"), [(None, "null"), ("1.0", "1.0")])
def test_a_failed_scaling_keeps_the_model(site: Site, real_time: Run, version: str | None, shown: str) -> None:
    async def main() -> None:
        registry = site.registry()
        model = await register(registry, site.pack("a.mar"))
        scaling = asyncio.create_task(registry.scale("m", version, 1, 1, synchronous=True))
        (slot,) = await slots(1)
        slot.fails(WorkersFailed("no room", status=507))
        with pytest.raises(WorkersFailed) as caught:
            await scaling
        assert caught.value.message == f"Failed to start workers for model m version: {shown}. no room"
        assert caught.value.status == 507
        assert registry.get("m") is model

    real_time(main())


def test_unregistering_stops_the_workers_and_removes_the_files(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        await register(registry, site.pack("a.mar"), overrides=WORKERS, synchronous=False)
        await registry.unregister("m")
        assert (names(registry), site.unpacked, FakeReplica.made[0].state) == ([], 0, "stopped")
        assert (site.folder / "a.mar").exists()

    real_time(main())


def test_the_default_version_goes_last(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        await register(registry, site.pack("1.mar", version="1.0"))
        second = await register(registry, site.pack("2.mar", version="2.0"))
        for version in (None, "1.0"):
            with pytest.raises(DefaultVersionInUse, match=r"^Cannot remove default version for model m$") as caught:
                await registry.unregister("m", version)
            assert caught.value.status == 403
        registry.set_default("m", "2.0")
        await registry.unregister("m", "1.0")
        assert registry.versions("m") == [second]
        await registry.unregister("m")
        with pytest.raises(ModelNotFound):
            registry.get("m")

    real_time(main())


def test_unregistering_that_takes_too_long_can_be_tried_again(
    site: Site, real_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(FakeReplica, "stops_at_once", False)
        registry = site.registry(unregister_model_timeout_s=0.05)
        model = await register(registry, site.pack("a.mar"), overrides=WORKERS, synchronous=False)
        with pytest.raises(RequestTimeout, match=r"^Timed out while cleaning resources: m$"):
            await registry.unregister("m")
        assert (registry.get("m"), site.unpacked, model.is_closing) == (model, 1, False)
        assert FakeReplica.made[0].is_killed, "it had its time"
        await registry.unregister("m")
        assert (names(registry), site.unpacked) == ([], 0)

    real_time(main())


def test_closing_waits_no_longer_for_workers_than_unregistering(
    site: Site, real_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(FakeReplica, "stops_at_once", False)
        registry = site.registry(unregister_model_timeout_s=0.05)
        await register(registry, site.pack("a.mar"), overrides=WORKERS, synchronous=False)
        await registry.close()
        assert [(replica.state, replica.is_killed) for replica in FakeReplica.made] == [("stopped", True)] * len(
            FakeReplica.made
        )

    real_time(main())


def test_a_model_unregistered_while_it_is_registered_fails_its_registration(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        registering = asyncio.create_task(register(registry, site.pack("a.mar"), overrides=WORKERS))
        await slots(1)
        await registry.unregister("m")
        with pytest.raises(WorkersFailed, match="stopped before it was ready"):
            await registering
        assert (names(registry), site.unpacked) == ([], 0)

    real_time(main())


def test_a_name_is_free_again_at_once(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        old = await register(registry, site.pack("a.mar"))
        await registry.unregister("m")
        new = await register(registry, "a.mar")
        assert new is not old and registry.get("m") is new

    real_time(main())


def test_closing_ends_every_worker_of_every_version(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = site.registry()
        for version in ("1.0", "2.0"):
            await register(registry, site.pack(f"{version}.mar", version=version), overrides=WORKERS, synchronous=False)
        job = registry.get("m").submit(new_request())
        await registry.close()
        assert [slot.state for slot in FakeReplica.made] == ["stopped", "stopped"]
        with pytest.raises(ServerError):
            await job.future

    real_time(main())


# --- archives from elsewhere ---


def fetching(site: Site) -> Registry:
    """A registry that may copy what lies in the folder `origin`, beside the store."""
    (site.folder.parent / "origin").mkdir()
    pattern = re.compile(f"file://{site.folder.parent}/origin/.*")
    return site.registry(downloads=DownloadRules(allowed_urls=(pattern,)))


def offer(site: Site, file: str, **entry: str) -> str:
    """Moves an archive to where it can be copied from; its URL."""
    target = site.folder.parent / "origin" / file
    (site.folder / site.pack(file, **entry)).rename(target)
    return f"file://{target}"


def test_unregistering_removes_what_was_fetched(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = fetching(site)
        url = offer(site, "a.mar")
        model = await register(registry, url)
        assert (model.identity.url, os.listdir(site.folder)) == (url, ["a.mar"])
        with pytest.raises(ServerError, match=r"^Model file already exists a\.mar$") as caught:
            await register(registry, url)
        assert caught.value.status == 500
        await registry.unregister("m")
        assert (os.listdir(site.folder), site.unpacked) == ([], 0)
        await register(registry, url)

    real_time(main())


def test_a_registration_that_fails_leaves_nothing_it_has_fetched(site: Site, real_time: Run) -> None:
    async def main() -> None:
        registry = fetching(site)
        await register(registry, offer(site, "first.mar"))
        with pytest.raises(Conflict):
            await register(registry, offer(site, "second.mar"))
        failing = asyncio.create_task(
            register(registry, offer(site, "third.mar", name="other"), overrides=WORKERS, synchronous=True)
        )
        (await slots(1))[0].fails(WorkersFailed("no memory"))
        with pytest.raises(WorkersFailed):
            await failing
        assert os.listdir(site.folder) == ["first.mar"]

    real_time(main())
