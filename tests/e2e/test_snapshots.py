"""Snapshots on the real server: it comes back as it was, and it starts whatever has become of its files."""

from __future__ import annotations

import contextlib
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from servers import MIRROR, Archives, Server, eventually

# What TorchServe 0.12 has written, with STORE for its model store, and without its notes on the JVM.
TORCHSERVES = r"""#Saving snapshot
#Sat Nov 21 12:11:24 UTC 2026
inference_address=http\://127.0.0.1\:0
management_address=http\://127.0.0.1\:0
metrics_address=http\://127.0.0.1\:0
grpc_inference_port=0
grpc_management_port=0
default_workers_per_model=1
load_models=spare.mar
model_store=STORE
number_of_gpu=0
models={"spare"\:{"1.0"\:{"minWorkers"\:1}}}
python=/opt/torchserve/bin/python
model_snapshot={\n  "name"\: "20261121121124865-shutdown.cfg",\n  "modelCount"\: 2,\n  "created"\: 1795263084865,\n  "models"\: {\n    "spare"\: {\n      "1.0"\: {\n        "defaultVersion"\: false,\n        "marName"\: "spare.mar",\n        "minWorkers"\: 1,\n        "maxWorkers"\: 1,\n        "batchSize"\: 2,\n        "maxBatchDelay"\: 100,\n        "responseTimeout"\: 120,\n        "startupTimeout"\: 120,\n        "runtimeType"\: "python"\n      },\n      "2.0"\: {\n        "defaultVersion"\: true,\n        "marName"\: "spare_2.mar",\n        "minWorkers"\: 0,\n        "maxWorkers"\: 0,\n        "batchSize"\: 3,\n        "maxBatchDelay"\: 100,\n        "responseTimeout"\: 120,\n        "startupTimeout"\: 120,\n        "runtimeType"\: "python"\n      }\n    }\n  }\n}
enable_model_api=true
tsConfigFile=/opt/torchserve/config.properties
version=0.12.0
workflow_store=STORE
some_unknown=x yé\: \=\#\!
disable_system_metrics=true
disable_token_authorization=true
"""  # noqa: E501 (a file as it is)


@dataclass(eq=False)
class Restartable(Server):
    """A server whose snapshots lie in a folder that outlives it; `is_told`: by a configuration file and a store."""

    is_told: bool = True

    def _command(self) -> list[str]:
        words = [word for word in super()._command() if word != "--ncs"]
        if self.is_told:
            return words
        for flag in ("--ts-config", "--model-store", "--models", "--disable-token", "--enable-model-api"):
            if flag in words:
                at = words.index(flag)
                del words[at : at + (2 if flag[2:4] in ("ts", "mo") else 1)]
        return words


class Site:
    """A model store and a folder of snapshots that servers share one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.archives = Archives(folder / "model_store")
        self.store = self.archives.folder
        self.snapshots = folder / "logs" / "config"
        self._started = 0

    def server(self, models: tuple[str, ...] = (), *, args: tuple[str, ...] = (), is_told: bool = True) -> Restartable:
        self._started += 1
        environment = {"LOG_LOCATION": str(self._folder / "logs")}
        folder = self._folder / f"server-{self._started}"
        config: dict[str, object] = {}
        args = ("--enable-model-api", *args)
        return Restartable(folder, self.store, models, config, args, environment, is_told=is_told)

    def files(self) -> list[str]:
        """Kinds of the snapshots, oldest first."""
        return [path.stem.partition("-")[2] for path in sorted(self.snapshots.glob("*.cfg"))]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def state(server: Server) -> dict[str, list[tuple[object, ...]]]:
    keys = ("modelVersion", "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout")
    return {
        name: [tuple(version[key] for key in keys) for version in server.describe(name, "all")]
        for name in server.model_names()
    }


def test_a_server_that_is_told_nothing_comes_back_as_it_was(site: Site) -> None:
    site.archives.pack("m", MIRROR)
    site.archives.pack("n", MIRROR, file="n1.mar")
    site.archives.pack("n", MIRROR, file="n2.mar", version="2.0")
    with site.server(("m.mar",)) as first:
        first.register("n1.mar", batch_size=4, max_batch_delay=30, initial_workers=1, response_timeout=17)
        first.register("n2.mar", model_name="n")
        first.manage("PUT", "models/n/2.0/set-default")
        first.manage("PUT", "models/m?min_worker=2&max_worker=3&synchronous=true")
        before, default = state(first), first.describe("n")
    kinds = site.files()  # changes that come while one waits to be written share its file
    assert kinds in (["startup", *["snapshot"] * files, "shutdown"] for files in (1, 2, 3, 4))
    with site.server(is_told=False) as second:
        assert state(second) == before
        assert second.describe("n")[0]["modelVersion"] == default[0]["modelVersion"] == "2.0"
        assert not second.describe("m")[0]["loadedAtStartup"]
        assert second.predict("m", b"x").status_code == 200
        assert second.infer("POST", "predictions/n/1.0", data=b"x").status_code == 200
    assert site.files()[len(kinds) :] == ["startup", "shutdown"]


def test_a_killed_server_comes_back_after_its_last_change(site: Site) -> None:
    for name in ("m", "n", "o"):
        site.archives.pack(name, MIRROR)
    with site.server(("m.mar",)) as first:
        for url in ("n.mar", "o.mar"):
            first.register(url)
        first.manage("DELETE", "models/n")
        eventually(lambda: "snapshot" in site.files()[-1:] and '"n"' not in newest(site).read_text(), "it is written")
        first.kill()
    with site.server(is_told=False) as second:
        assert second.model_names() == ["m", "o"]


# Each is a state that the server may be found in; the last brings the first back.
CHANGES = (
    ("POST", "models?url=n1.mar&initial_workers=1"),
    ("POST", "models?url=n2.mar"),
    ("PUT", "models/n/2.0/set-default"),
    ("PUT", "models/m?min_worker=2&max_worker=2&synchronous=true"),
    ("PUT", "models/n/1.0/set-default"),
    ("DELETE", "models/n/2.0"),
    ("DELETE", "models/n"),
    ("PUT", "models/m?min_worker=1&max_worker=1&synchronous=true"),
)


def test_killed_at_any_moment_it_comes_back_before_or_after_a_change(site: Site) -> None:
    site.archives.pack("m", MIRROR)
    site.archives.pack("n", MIRROR, file="n1.mar")
    site.archives.pack("n", MIRROR, file="n2.mar", version="2.0")
    with site.server(("m.mar",)) as first:
        states = [full_state(first)]
        for method, path in CHANGES:
            first.manage(method, path)
            states.append(full_state(first))
    assert states[0] == states[-1]
    for kill_after in (0.0, 0.05, 0.12, 0.2, 0.3, 0.45):
        with site.server(is_told=False) as running:
            assert full_state(running) in states
            with ThreadPoolExecutor(1) as pool:
                pool.submit(change_until_it_is_gone, running)
                time.sleep(kill_after)  # the moment is what is tried out; nothing is waited for
                running.kill()


def change_until_it_is_gone(server: Server) -> None:
    with contextlib.suppress(requests.ConnectionError):
        for method, path in CHANGES:
            server.manage(method, path)


def full_state(server: Server) -> object:
    defaults = {name: server.describe(name)[0]["modelVersion"] for name in server.model_names()}
    return defaults, state(server)


def newest(site: Site) -> Path:
    return max(site.snapshots.glob("*.cfg"))


def test_without_snapshots_nothing_is_written_or_read(site: Site) -> None:
    site.archives.pack("m", MIRROR)
    with site.server(("m.mar",), args=("--no-config-snapshots",)) as first:
        first.register("m.mar", model_name="other")
    assert site.files() == []
    with site.server(("m.mar",)):
        pass
    assert site.files() == ["startup", "shutdown"]
    with site.server(args=("--no-config-snapshots",)) as third:
        assert third.model_names() == []
    assert site.files() == ["startup", "shutdown"]


@pytest.mark.parametrize("form", ["junk", "empty"])
def test_an_archive_that_has_become_junk_does_not_stop_the_start(site: Site, form: str) -> None:
    for name in ("m", "n"):
        site.archives.pack(name, MIRROR)
    with site.server(("m.mar", "n.mar")):
        pass
    good = (site.store / "m.mar").read_bytes()
    (site.store / "m.mar").write_bytes(b"This is no archive." if form == "junk" else b"")
    with site.server(is_told=False) as second:
        assert second.model_names() == ["n"]
        assert "Failed to load model: m.mar" in second.log_text()
    (site.store / "m.mar").write_bytes(good)
    with site.server(is_told=False) as third:
        assert third.model_names() == ["m", "n"]


def test_an_archive_that_is_gone_stops_the_start(site: Site) -> None:
    site.archives.pack("m", MIRROR)
    with site.server(("m.mar",)) as first:
        pass
    (site.store / "m.mar").unlink()
    command = ["-P", "-m", "model_server.cli", "--start", "--foreground", "--model-store", str(site.store)]
    ended = subprocess.run(
        [first._command()[0], *command], cwd=first.folder, env=first._environment(), capture_output=True, timeout=30
    )
    assert ended.returncode == 1
    expected = b"Model archive file for model :m, version :1.0 not found in model store"
    assert ended.stdout.startswith(expected)


def test_a_snapshot_of_torchserve_is_restored(site: Site) -> None:
    site.archives.pack("spare", MIRROR, file="spare_2.mar", version="2.0")
    site.archives.pack("spare", MIRROR)
    site.snapshots.mkdir(parents=True)
    text = TORCHSERVES.replace("STORE", str(site.store))
    (site.snapshots / "20261121121124865-shutdown.cfg").write_text(text, encoding="iso-8859-1")
    with site.server(is_told=False) as server:
        assert state(server) == {"spare": [("1.0", 1, 1, 2, 100, 120), ("2.0", 0, 0, 3, 100, 120)]}
        assert server.describe("spare")[0]["modelVersion"] == "2.0"
        assert server.infer("POST", "predictions/spare/1.0", data=b"x").status_code == 200


def test_a_place_that_cannot_be_written_does_not_stop_the_start(site: Site) -> None:
    site.archives.pack("m", MIRROR)
    site.snapshots.parent.write_text("a file where the folder would be")
    with site.server(("m.mar",)) as server:
        assert server.register("m.mar", model_name="other").status_code == 200
        assert server.predict("m", b"x").status_code == 200
        assert "The snapshot of the models cannot be written to" in server.log_text()
