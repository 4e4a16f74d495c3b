"""Snapshots go from ours to TorchServe and back; both then register from the same URLs, under the same rules.

Our server runs first. TorchServe starts from the snapshot that it has left, our second server from the one that
TorchServe then writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from comparison import Case, check
from origins import Origin, content
from pairs import Endpoints, Pair
from peer_archives import Archive, pack_all
from servers import Server, eventually
from torchserve_peer import TorchServe
from wire_exchange import Address, Answer, Request

from model_server.config.properties import decode_properties, parse_properties

ARCHIVES = (
    Archive("first", "mirror", {"batchSize": 2, "minWorkers": 1, "maxWorkers": 1}),
    Archive("second", "mirror", version="2.0", file="second_2"),
    Archive("second", "mirror"),
)


@dataclass(eq=False)
class TorchServeFromSnapshot(TorchServe):
    """`snapshot`: the file it starts from. Its own ports come behind that: the last line of a key counts."""

    snapshot: Path = Path()

    def _write_config(self, grpc_ports: Sequence[int]) -> None:
        super()._write_config(grpc_ports)
        file = self.folder / "config.properties"
        file.write_text(f"{self.snapshot.read_text()}\n{file.read_text()}")

    def _start_options(self) -> list[str]:
        return [option for option in super()._start_options() if option != "--ncs"]


@dataclass(eq=False)
class OursFromSnapshot(Server):
    """`snapshot`: the file it starts from; None: it is configured as every server of the tests."""

    snapshot: Path | None = None

    def _command(self) -> list[str]:
        words = [word for word in super()._command() if word != "--ncs"]
        if self.snapshot is not None:
            file = self.folder / "test.properties"
            file.write_text(f"{self.snapshot.read_text()}\n{file.read_text()}")
        return words

    def newest_snapshot(self) -> Path:
        return newest_snapshot(self.folder)


def newest_snapshot(folder: Path) -> Path:
    return max((folder / "logs" / "config").glob("*.cfg"))


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture(scope="module")
def pair(torchserve_installed: None, tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("configuration")
    store = folder / "store"
    pack_all(ARCHIVES, store, folder / "inputs")
    far = Archive("far", "mirror")
    far.pack(folder / "offered", folder / "inputs" / "far")
    origin.answers["/far.mar"] = content((folder / "offered" / "far.mar").read_bytes())
    config = {
        "default_workers_per_model": 1,
        "allowed_urls": f"http://127.0.0.1:{origin.port}/.*,HTTP://LOCALHOST:a.*,file://{folder}/offered/.*",
        "models": '{"second": {"1.0": {"batchSize": 9}}}',
        "colour": "r\\u00f6d: #=!",
    }
    earlier = OursFromSnapshot(folder / "earlier", store, ["first.mar"], config, ("--enable-model-api",))
    with earlier:
        assert earlier.register("second_2.mar", batch_size=3, max_batch_delay=20).status_code == 200
        assert earlier.register("second.mar", initial_workers=1).status_code == 200
    with ExitStack() as running:
        # Its model store goes with it: what one of them fetches, the other must not find.
        their_store = copy_of(store, folder / "their_store")
        theirs = TorchServeFromSnapshot(folder / "theirs", their_store, snapshot=earlier.newest_snapshot())
        running.callback(theirs.stop)
        theirs.start()
        ours = OursFromSnapshot(
            folder / "ours", store, args=("--enable-model-api",), snapshot=newest_snapshot(theirs.folder)
        )
        running.callback(ours.stop)
        ours.start()
        host, _, port = ours.management.removeprefix("http://").partition(":")
        pair = Pair(
            Endpoints(theirs.inference, theirs.management, theirs.folder),
            Endpoints(Address("127.0.0.1", 0), Address(host, int(port)), ours.folder),
            folder,
        )
        eventually(lambda: all(pair.both(has_restored_workers)), "the workers of both are ready")
        yield pair


def has_restored_workers(server: Endpoints) -> bool:
    described = [json.loads(server.manage(get(f"/models/{name}/all")).body) for name in ("first", "second")]
    states = [worker["status"] for versions in described for model in versions for worker in model["workers"]]
    return states == ["READY"] * 3


def copy_of(store: Path, target: Path) -> Path:
    target.mkdir()
    for archive in store.iterdir():
        os.link(archive, target / archive.name)
    return target


def properties(folder: Path) -> dict[str, str]:
    text = decode_properties(newest_snapshot(folder).read_bytes())
    return {entry.key: entry.value for entry in parse_properties(text)}


def get(target: str) -> Request:
    return Request("GET", target)


def delete(target: str) -> Request:
    return Request("DELETE", target)


def register(url: str, more: str = "") -> Request:
    return Request("POST", f"/models?url={url}{more}")


@pytest.mark.parametrize("target", ["/models", "/models/first", "/models/second/all", "/models/second"])
def test_both_serve_what_the_snapshots_say(pair: Pair, target: str) -> None:
    theirs, ours = pair.both(lambda server: server.manage(get(target)))
    check(theirs, ours)
    assert b"first" in theirs.body or b"second" in theirs.body


def test_snapshots_of_both_say_the_same(pair: Pair) -> None:
    theirs, ours = properties(pair.theirs.folder), properties(pair.ours.folder)

    def models(snapshot: dict[str, str]) -> Any:
        return json.loads(snapshot["model_snapshot"])["models"]

    assert models(theirs) == models(ours)
    assert [list(version) for version in models(ours)["second"].values()] == [
        list(version) for version in models(theirs)["second"].values()
    ]
    for key in ("colour", "models", "allowed_urls", "default_workers_per_model", "enable_model_api"):
        assert (key, theirs[key]) == (key, ours[key])


def test_registering_by_url(pair: Pair, origin: Origin) -> None:
    far, file = f"{origin.url}/far.mar", f"file://{pair.model_store}/offered/far.mar"
    cases = [
        Case("a url that no pattern matches", register("http://127.0.0.2/far.mar")),
        Case("a file that no pattern matches", register("file:///etc/hostname")),
        Case("a step up", register(f"{origin.url}/../far.mar")),
        Case("another scheme", register("ftp://127.0.0.1/far.mar")),
        Case("no port", register("http://localhost:aaaa")),
        Case("not there", register(f"{origin.url}/none.mar")),
        Case("no such file", register(f"file://{pair.model_store}/offered/none.mar")),
        Case("a wrong runtime comes first", register("http://localhost:aaaa", "&runtime=python4")),
        Case("from the web", register(far)),
        Case("describe it", get("/models/far")),
        Case("again", register(far)),
        Case("from a file of the same name", register(file)),
        Case("unregister it", delete("/models/far")),
        Case("its file is gone", register("far.mar")),
        Case("from a file", register(file, "&model_name=copied&initial_workers=0")),
        Case("list", get("/models")),
        Case("unregister that", delete("/models/copied")),
        Case("with a query", register(f"{origin.url}/far.mar%3Fkey%3D1", "&initial_workers=0")),
        Case("its file is there", register("far.mar", "&model_name=local&initial_workers=0")),
        Case("unregister the local one", delete("/models/local")),
        Case("its file is still there", register("far.mar", "&model_name=local&initial_workers=0")),
        Case("unregister the local one again", delete("/models/local")),
        Case("unregister the one with a query", delete("/models/far")),
        Case("its file is gone as well", register("far.mar")),
    ]
    walk(pair, cases)


def walk(pair: Pair, cases: Sequence[Case]) -> None:
    """Both servers take all steps, each at its own pace; then the answers are compared."""

    def take(server: Endpoints) -> list[Answer]:
        return [server.manage(case.request) for case in cases]

    theirs, ours = pair.both(take)
    for case, their_answer, our_answer in zip(cases, theirs, ours, strict=True):
        try:
            check(their_answer, our_answer, case.differs)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from None
