"""Snapshots of a registry with fake worker slots: what is written when, and that it is served again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from registry_site import Site
from serving_fakes import FakeReplica, Run

from model_server.config.load import load_config
from model_server.config.model_snapshot import SnapshotModel
from model_server.config.resolve import RegisterOverrides
from model_server.config.server import CommandLine, ServerConfig, StartupModel
from model_server.config.snapshot_files import snapshot_files
from model_server.errors import Conflict, InvalidModel, ServerError
from model_server.serving import snapshot
from model_server.serving.registry import RegisterRequest, Registry
from model_server.serving.snapshot import KEPT_SNAPSHOTS, SnapshotWriter, capture, write_snapshot


class Snapshots(Site):
    """A site whose server runs in the folder above the store."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self.files_folder = root / "logs" / "config"

    def config(self, text: str = "", **flags: Any) -> ServerConfig:
        file = self.root / "my.properties"
        file.write_text(text)
        return load_config(CommandLine(model_store=self.folder, ts_config=file, **flags), {}, self.root)[0]

    def files(self) -> list[Path]:
        return snapshot_files(self.files_folder)

    def kinds(self) -> list[str]:
        return [file.stem.partition("-")[2] for file in self.files()]

    def restart(self) -> ServerConfig:
        """What a server that is told nothing starts with."""
        return load_config(CommandLine(), {}, self.root)[0]


@pytest.fixture
def site(tmp_path: Path, fake_replicas: Any) -> Snapshots:
    return Snapshots(tmp_path)


async def register(registry: Registry, url: str, **overrides: Any) -> None:
    await registry.register(RegisterRequest(url, overrides=RegisterOverrides(**overrides), synchronous=False))


async def restore(registry: Registry, models: tuple[SnapshotModel, ...] | None) -> None:
    for model in models or ():
        await registry.restore(model)


# --- what is written ---


def test_the_file_is_torchserves(site: Snapshots, real_time: Run) -> None:
    """Names, keys and order of TorchServe's own files; the text of a snapshot is Java's JSON with two blanks."""

    async def main() -> None:
        config = site.config("job_queue_size=7\ncolour=r\\u00f6d\n", enable_model_api=True)
        registry = site.registry()
        await registry.register_at_startup(StartupModel("named", site.pack("a.mar")))
        await register(registry, site.pack("b.mar", version="2.0"), initial_workers=2, batch_size=3)
        await register(registry, site.pack("c.mar", version="3.0"))
        path = write_snapshot(config, "startup", capture(registry, config))
        assert re.fullmatch(r"\d{17}-startup\.cfg", path.name)
        assert abs(datetime.strptime(path.name[:14], "%Y%m%d%H%M%S") - datetime.now()).total_seconds() < 60
        assert path.read_text("ascii").startswith("#Saving snapshot\n#")
        restarted = site.restart()
        assert restarted.config_file == path
        assert (restarted.job_queue_size, restarted.enable_model_api) == (7, True)
        assert restarted.unknown_keys == {"colour": "röd"}
        assert restarted.model_stores == (site.folder,)
        document = json.loads(restarted.settings["model_snapshot"].text)
        assert list(document) == ["name", "modelCount", "created", "models"]
        assert (document["name"], document["modelCount"]) == (path.name, 3)
        assert abs(document["created"] / 1000 - datetime.now().timestamp()) < 60
        assert list(document["models"]["m"]["2.0"].items()) == [
            ("defaultVersion", True),
            ("marName", "b.mar"),
            ("minWorkers", 2),
            ("maxWorkers", 2),
            ("batchSize", 3),
            ("maxBatchDelay", 100),
            ("responseTimeout", 120),
            ("startupTimeout", 120),
            ("runtimeType", "python"),
        ]
        assert document["models"]["m"]["3.0"]["defaultVersion"] is False
        assert document["models"]["named"]["1.0"]["marName"] == "a.mar"
        assert '\\n  "modelCount"\\: 3,\\n' in path.read_text()

    real_time(main())


def test_only_what_was_set_is_written(site: Snapshots) -> None:
    """A machine without GPUs, say, must not forbid them to the next one."""
    path = write_snapshot(site.config(), "startup", [])
    text = path.read_text()
    assert "number_of_gpu" not in text and "python=" not in text
    assert f"tsConfigFile={site.root}/my.properties" in text


def test_an_interpreter_that_was_set_comes_back(site: Snapshots) -> None:
    write_snapshot(site.config("python=/mine/bin/python"), "startup", [])
    assert site.restart().python == "/mine/bin/python"


def test_only_its_owner_may_read_it(site: Snapshots) -> None:
    path = write_snapshot(site.config("keystore_pass=secret"), "startup", [])
    assert "keystore_pass=secret" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_files_are_in_order_whatever_the_clock_says(site: Snapshots) -> None:
    config = site.config()
    site.files_folder.mkdir(parents=True)
    (site.files_folder / "29991231235959999-shutdown.cfg").touch()
    written = [write_snapshot(config, "snapshot", []) for _ in range(3)]
    assert [path.name for path in written] == [f"2999123123596000{digit}-snapshot.cfg" for digit in range(3)]
    assert site.files()[-3:] == written


def test_old_changes_are_removed_starts_and_ends_are_not(site: Snapshots) -> None:
    config = site.config()
    site.files_folder.mkdir(parents=True)
    for number in range(KEPT_SNAPSHOTS + 5):
        (site.files_folder / f"{number:017}-snapshot.cfg").touch()
    (site.files_folder / f"{0:017}-startup.cfg").touch()
    write_snapshot(config, "shutdown", [])
    assert site.kinds().count("snapshot") == KEPT_SNAPSHOTS
    assert site.files()[0].name == f"{0:017}-startup.cfg"
    assert site.files()[1].name == f"{5:017}-snapshot.cfg"


def test_a_full_disk_leaves_nothing_half_written(site: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_snapshot(site.config(), "snapshot", [])
    assert os.listdir(site.files_folder) == []


# --- when it is written ---


class Changes:
    """Runs changes of a registry one by one; what each of them has written."""

    def __init__(self, site: Snapshots) -> None:
        self._site = site
        self.registry = site.registry()
        self.writer = SnapshotWriter(site.config(), self.registry)
        self.registry.watch(self.writer.request)

    async def written(self, change: Any) -> int:
        before = len(self._site.files())
        await change
        await self.settled()
        return len(self._site.files()) - before

    async def settled(self) -> None:
        while tasks := [task for task in asyncio.all_tasks() if "of the models" in task.get_name()]:
            await asyncio.wait(tasks)


def test_every_change_is_written_and_nothing_else_is(site: Snapshots, real_time: Run) -> None:
    async def main() -> None:
        changes = Changes(site)
        registry, written = changes.registry, changes.written

        async def call(function: Callable[..., object], *arguments: object) -> None:
            function(*arguments)

        assert await written(register(registry, site.pack("1.mar"))) == 1
        assert await written(register(registry, site.pack("2.mar", version="2.0"), initial_workers=1)) == 1
        assert await written(registry.scale("m", None, 1, 1, synchronous=False)) == 1
        assert await written(call(registry.set_default, "m", "2.0")) == 1
        assert await written(registry.unregister("m", "1.0")) == 1
        assert await written(call(registry.get, "m")) == 0
        with pytest.raises(Conflict):
            await written(register(registry, "2.mar"))
        with pytest.raises(ServerError):
            await written(registry.scale("nobody", None, 1, 1, synchronous=False))
        with pytest.raises(ServerError):
            await written(call(registry.set_default, "m", "9.9"))
        assert site.kinds() == ["snapshot"] * 5
        (model,) = site.restart().model_snapshot or ()
        assert (model.version, model.is_default, model.min_workers) == ("2.0", True, 1)

    real_time(main())


def test_what_is_under_way_is_not_written_as_done(
    site: Snapshots, real_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that an earlier change asked for may be taken in the middle of the next one."""

    def found() -> list[tuple[str, int]]:
        return [(model.name, model.min_workers) for model in site.restart().model_snapshot or ()]

    async def main() -> None:
        changes = Changes(site)
        registry = changes.registry
        await register(registry, site.pack("1.mar"), initial_workers=1)
        monkeypatch.setattr(FakeReplica, "stops_at_once", False)
        unregistering = asyncio.create_task(registry.unregister("m"))
        await asyncio.sleep(0)
        assert registry.get("m").settings.min_workers == 0
        changes.writer.request()
        await changes.settled()
        assert found() == [("m", 1)], "it is not unregistered yet, and was never scaled"
        FakeReplica.made[0].kill()
        await unregistering
        await changes.settled()
        assert found() == []

        monkeypatch.setattr(FakeReplica, "stops_at_once", True)
        request = RegisterRequest("1.mar", overrides=RegisterOverrides(initial_workers=1), synchronous=True)
        registering = asyncio.create_task(registry.register(request))
        while len(FakeReplica.made) < 2:
            await asyncio.sleep(0.01)
        changes.writer.request()
        await changes.settled()
        assert found() == [], "it may still be taken back"
        registering.cancel()
        await asyncio.wait([registering])

    real_time(main())


def test_changes_that_come_while_one_is_written_share_a_file(
    site: Snapshots, real_time: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    write = snapshot.write_snapshot

    def slow(*arguments: Any) -> Path:
        assert go_on.wait(20)
        return write(*arguments)

    monkeypatch.setattr(snapshot, "write_snapshot", slow)

    async def main() -> None:
        changes = Changes(site)
        for number in range(20):
            await register(changes.registry, site.pack(f"{number}.mar", version=str(number)))
        assert site.files() == []
        go_on.set()
        await changes.settled()
        assert len(site.files()) <= 2
        assert len(site.restart().model_snapshot or ()) == 20

    real_time(main())


def test_the_start_comes_first_and_the_end_last(site: Snapshots, real_time: Run) -> None:
    async def main() -> None:
        changes = Changes(site)
        changes.writer.request("startup")
        await register(changes.registry, site.pack("a.mar"))
        changes.writer.request()
        await changes.writer.close()
        assert site.kinds() == ["startup", "snapshot", "shutdown"]

    real_time(main())


def test_a_server_that_ends_before_its_models_were_there_changes_nothing(site: Snapshots, real_time: Run) -> None:
    async def main() -> None:
        await SnapshotWriter(site.config(), site.registry()).close()
        assert site.files() == []

    real_time(main())


def test_a_folder_that_cannot_be_written_is_a_line_in_the_log(
    site: Snapshots, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    (site.root / "logs").write_text("not a folder")

    async def main() -> None:
        changes = Changes(site)
        await register(changes.registry, site.pack("a.mar"))
        await changes.writer.close()
        assert len(list(changes.registry)) == 1

    real_time(main())
    assert f"The snapshot of the models cannot be written to {site.files_folder}: " in caplog.text


# --- what is restored ---


def test_models_come_back_as_they_were(site: Snapshots, real_time: Run) -> None:
    async def main() -> None:
        yaml = "minWorkers: 1\nmaxWorkers: 2\nbatchSize: 2\nmaxBatchDelay: 20\nresponseTimeout: 33\n"
        config = site.config('models={"m": {"1.0": {"batchSize": 9}}}')
        registry = site.registry()
        await register(registry, site.pack("1.mar", yaml=yaml), batch_size=5)
        await registry.scale("m", None, 3, 4, synchronous=False)
        await register(registry, site.pack("2.mar", version="2.0", yaml=yaml), max_batch_delay_ms=7)
        await registry.scale("m", "2.0", 0, 0, synchronous=False)
        registry.set_default("m", "2.0")
        await registry.register(RegisterRequest("1.mar", "other", handler="other:fn", synchronous=False))
        write_snapshot(config, "shutdown", capture(registry, config))

        started = len(FakeReplica.made)
        again = site.registry()
        await restore(again, site.restart().model_snapshot)
        first, second, other = again.get("m", "1.0"), again.get("m"), again.get("other")
        assert (first.settings.min_workers, first.settings.max_workers, first.settings.batch_size) == (3, 4, 5)
        assert (first.settings.max_batch_delay_ms, first.settings.response_timeout_s) == (20, 33)
        assert second.identity.version == "2.0"
        assert (second.settings.min_workers, second.settings.max_workers) == (0, 0)
        assert (second.settings.batch_size, second.settings.max_batch_delay_ms) == (2, 7)
        assert (first.identity.handler, other.identity.handler) == ("handler.py", "other:fn")
        assert first.settings.origins["batch_size"] == "model_snapshot"
        assert again.startup_models == []
        assert not first.identity.loaded_at_startup
        assert len(FakeReplica.made) == started  # the caller starts the workers, when all models are known
        assert capture(again, config) == capture(registry, config)

    real_time(main())


def test_a_folder_outside_the_store_is_found_again(site: Snapshots, real_time: Run) -> None:
    async def main() -> None:
        config = site.config("default_service_handler=base_handler")
        for folder in (site.root / "elsewhere" / "m", site.folder / "inside"):
            folder.mkdir(parents=True)
            (folder / "weights.bin").touch()
        registry = site.registry(default_service_handler="base_handler")
        await registry.register_at_startup(StartupModel("out", str(site.root / "elsewhere" / "m")))
        await registry.register_at_startup(StartupModel("in", "inside"))
        write_snapshot(config, "shutdown", capture(registry, config))
        out, inside = site.restart().model_snapshot or ()
        assert (out.mar_name, out.source) == ("m", str(site.root / "elsewhere" / "m"))
        assert (inside.source, inside.url, inside.handler) == ("inside", None, None)
        again = site.registry(default_service_handler="base_handler")
        await restore(again, (out, inside))
        assert again.get("out").archive.root == site.root / "elsewhere" / "m"

    real_time(main())


def test_what_cannot_be_restored_now_is_not_forgotten(site: Snapshots, real_time: Run) -> None:
    async def main() -> None:
        config = site.config()
        registry = site.registry()
        await register(registry, site.pack("a.mar"), batch_size=4)
        await register(registry, site.pack("b.mar", name="other"))
        write_snapshot(config, "shutdown", capture(registry, config))
        archive = (site.folder / "a.mar").read_bytes()
        (site.folder / "a.mar").write_bytes(b"junk")
        models = site.restart().model_snapshot or ()
        again = site.registry()
        with pytest.raises(InvalidModel):
            await again.restore(models[0])
        await again.restore(models[1])
        assert sorted(model.name for model in capture(again, config)) == ["m", "other"]
        (site.folder / "a.mar").write_bytes(archive)
        await register(again, "a.mar")
        assert sorted((model.name, model.batch_size) for model in capture(again, config)) == [("m", 1), ("other", 1)]

    real_time(main())


def test_another_version_in_the_archive_is_served_with_a_warning(
    site: Snapshots, real_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        config = site.config()
        registry = site.registry()
        await register(registry, site.pack("a.mar"))
        write_snapshot(config, "shutdown", capture(registry, config))
        site.pack("a.mar", version="2.0")
        again = site.registry()
        await restore(again, site.restart().model_snapshot)
        assert again.get("m").identity.version == "2.0"

    real_time(main())
    assert "Model m: the snapshot has version 1.0, a.mar is version 2.0" in caplog.text
