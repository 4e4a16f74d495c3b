"""TLS: the same keys of config.properties make both servers speak it, to the same clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
import requests
from certificates import PASSWORD, Issued, issue, key_store
from grpc_clients import Client
from peer_archives import Archive, pack_all
from servers import RawAnswer, Server, exchange, together
from torchserve_peer import TorchServe


class SecureTorchServe(TorchServe):
    """Its two HTTP ports speak TLS."""

    def _write_config(self, grpc_ports: Sequence[int]) -> None:
        super()._write_config(grpc_ports)
        file = self.folder / "config.properties"
        file.write_text(file.read_text().replace("_address=http://", "_address=https://"))


@dataclass(frozen=True)
class Secured:
    """One of the two servers; ports of HTTP, host:port of gRPC."""

    inference: int
    management: int
    grpc_inference: str
    root: Path

    def get(self, path: str) -> requests.Response:
        return self._ask("GET", self.inference, path)

    def predict(self, body: bytes) -> requests.Response:
        return self._ask("POST", self.inference, "/predictions/m", body)

    def models(self) -> requests.Response:
        return self._ask("GET", self.management, "/models")

    def _ask(self, method: str, port: int, path: str, body: bytes | None = None) -> requests.Response:
        return requests.request(method, f"https://localhost:{port}{path}", data=body, verify=str(self.root), timeout=30)

    def ask_in_the_clear(self, request: bytes) -> RawAnswer:
        return exchange(f"http://127.0.0.1:{self.inference}", request)


@dataclass(frozen=True)
class SecuredPair:
    theirs: Secured
    ours: Secured
    uses_files: bool

    def __iter__(self) -> Iterator[Secured]:
        return iter((self.theirs, self.ours))


@pytest.fixture(scope="module", params=["files", "keystore"])
def pair(
    request: pytest.FixtureRequest, torchserve_installed: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecuredPair]:
    folder = tmp_path_factory.mktemp("tls")
    store = folder / "store"
    pack_all([Archive("m", "mirror")], store, folder / "inputs")
    issued = issue(folder / "certificates")
    config = {"default_workers_per_model": 1, **settings(request.param, issued, folder)}
    theirs = SecureTorchServe(folder / "theirs", store, ["m.mar"], config)
    addresses = {f"{api}_address": "https://127.0.0.1:0" for api in ("inference", "management")}
    ours = Server(folder / "ours", store, ["m.mar"], {**config, **addresses})
    with ExitStack() as running:
        running.callback(theirs.stop)
        running.callback(ours.stop)
        together(theirs.start, ours.start)
        yield SecuredPair(
            Secured(theirs.inference.port, theirs.management.port, str(theirs.grpc_inference), issued.root),
            Secured(port(ours.inference), port(ours.management), str(ours.grpc_inference), issued.root),
            request.param == "files",
        )


def settings(source: str, issued: Issued, folder: Path) -> Mapping[str, object]:
    if source == "keystore":
        store = key_store(issued, folder / "store.p12")
        return {"keystore": store, "keystore_pass": PASSWORD, "keystore_type": "PKCS12"}
    # Its gRPC reads files only.
    return {"private_key_file": issued.private_key, "certificate_file": issued.chain, "enable_grpc_ssl": "true"}


def port(url: str) -> int:
    return urlsplit(url).port or 0


def test_answers(pair: SecuredPair) -> None:
    for server in pair:
        assert server.get("/ping").json() == {"status": "Healthy"}
    theirs, ours = (server.predict(b"\x00\xff") for server in pair)
    assert theirs.status_code == ours.status_code == 200
    assert theirs.json()["parts"] == ours.json()["parts"] == {"body": ["bytearray", "00ff"]}
    theirs, ours = (server.models() for server in pair)
    assert theirs.json() == ours.json()


def test_plain_http(pair: SecuredPair) -> None:
    theirs, ours = (server.ask_in_the_clear(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n") for server in pair)
    assert theirs.status == ours.status == 403
    assert theirs.body == ours.body
    assert theirs.header("content-type") == ours.header("content-type")


def test_grpc(pair: SecuredPair) -> None:
    for server in pair:
        target = f"localhost:{server.grpc_inference.rpartition(':')[2]}"
        with Client(target, "inference", server.root if pair.uses_files else None) as client:
            assert client.call("Ping").health
        other = Client(target, "inference", None if pair.uses_files else server.root)
        with other, pytest.raises(grpc.RpcError) as caught:
            other.call("Ping")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
