"""`/metrics` of both after the same requests: families, their text, labels, and what counts exactly."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
import requests
from peer_archives import Archive, pack_all
from servers import Server, eventually, together
from torchserve_peer import TorchServe
from wire_exchange import Address

# What a measurement is cannot be compared; how often things happened can. Not `Requests2XX`: reading counts.
COUNTED = (
    "Requests4XX",
    "Requests5XX",
    "ts_inference_requests_total",
    "texts",
    "lengths_bucket",
    "lengths_count",
    "lengths_sum",
)


@dataclass
class Document:
    """One `/metrics`, as text says it: parsers forgive what dashboards and scripts do not.

    Attributes:
        heads: the lines HELP and TYPE.
        samples: metric and labels in the order and form they are written in, the host's name taken out -> value.
    """

    heads: set[str] = field(default_factory=set)
    samples: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    inference: str
    management: str
    metrics: str

    def read(self, query: str = "") -> Document:
        answer = requests.get(f"{self.metrics}/metrics{query}", timeout=30)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        document = Document()
        for line in answer.text.splitlines():
            if line.startswith("#"):
                document.heads.add(line)
            else:
                sample, _, value = line.rpartition(" ")
                document.samples[sample.replace(socket.gethostname(), "HOST")] = value
        return document


@dataclass(frozen=True)
class MeasuredPair:
    theirs: Measured
    ours: Measured

    def read(self, query: str = "") -> tuple[Document, Document]:
        return self.theirs.read(query), self.ours.read(query)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def pair(torchserve_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredPair]:
    folder = tmp_path_factory.mktemp("metrics")
    store = folder / "store"
    pack_all([Archive("m", "recorder.py")], store, folder / "inputs")
    config = {
        "default_workers_per_model": 1,
        "metrics_mode": "prometheus",
        "model_metrics_auto_detect": "true",
        "disable_system_metrics": "true",
        "enable_metrics_api": "true",
    }
    metrics = f"http://127.0.0.1:{free_port()}"
    theirs = TorchServe(folder / "theirs", store, ["m.mar"], {**config, "metrics_address": metrics})
    ours = Server(folder / "ours", store, ["m.mar"], config, ("--enable-model-api",))
    with ExitStack() as running:
        running.callback(theirs.stop)
        running.callback(ours.stop)
        together(theirs.start, ours.start)
        pair = MeasuredPair(
            Measured(url(theirs.inference), url(theirs.management), metrics),
            Measured(ours.inference, ours.management, ours.metrics),
        )
        for server in (pair.theirs, pair.ours):
            use(server)
        yield pair


def url(address: Address) -> str:
    return f"http://{address}"


def use(server: Measured) -> None:
    for path in ("predictions/m", "predictions/m/1.0", "predictions/nobody", "ping"):
        requests.post(f"{server.inference}/{path}", data=b"four", timeout=30)
    assert requests.post(f"{server.inference}/predictions/m", data=b"raise", timeout=30).status_code == 503
    assert requests.post(f"{server.inference}/predictions/m", data=b"more than a few", timeout=30).text == "ok"
    assert requests.get(f"{server.management}/models", timeout=30).status_code == 200
    eventually(lambda: server.read("?name[]=texts").samples.get(TEXTS) == "3.0", "what the handler records arrives")


TEXTS = 'texts{Language="en",ModelName="m",Level="Model",Hostname="HOST",}'


def without_ours(document: Document) -> Document:
    heads = {line for line in document.heads if " modelserver_" not in line}
    samples = {key: value for key, value in document.samples.items() if not key.startswith("modelserver_")}
    return Document(heads, samples)


def test_the_same_families_with_the_same_text(pair: MeasuredPair) -> None:
    theirs, ours = pair.read()
    assert without_ours(ours).heads == theirs.heads
    assert len(theirs.heads) > 40


def test_the_same_samples_with_the_same_labels(pair: MeasuredPair) -> None:
    theirs, ours = pair.read()
    assert without_ours(ours).samples.keys() == theirs.samples.keys()


def test_the_same_counts(pair: MeasuredPair) -> None:
    theirs, ours = pair.read()
    for sample, value in theirs.samples.items():
        if sample.partition("{")[0] in COUNTED:
            assert ours.samples[sample] == value, sample


def test_numbers_have_a_decimal_part(pair: MeasuredPair) -> None:
    for document in pair.read():
        assert all(re.fullmatch(r"-?\d+\.\d+(E-?\d+)?", value) for value in document.samples.values())


@pytest.mark.parametrize("query", ["?name[]=Requests2XX", "?name[]=lengths_sum&name[]=texts", "?name[]=nothing"])
def test_filters(pair: MeasuredPair, query: str) -> None:
    theirs, ours = pair.read(query)
    assert (ours.heads, ours.samples.keys()) == (theirs.heads, theirs.samples.keys())


def test_longer_paths(pair: MeasuredPair) -> None:
    theirs, ours = (requests.get(f"{each.metrics}/metrics/more", timeout=30) for each in (pair.theirs, pair.ours))
    assert theirs.status_code == ours.status_code == 200
