"""This project's server, started with its own command and asked over its TorchServe API."""

import json
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from archiver.pack import PackRequest, pack
from benchmarks.assets import MODELS, Assets
from benchmarks.errors import BenchmarkError
from benchmarks.procs import QUIET_ENVIRONMENT
from benchmarks.servers import Deployment, Launch, Request, RunningServer, free_ports, launched
from benchmarks.workloads import Answer, Input, Model
from model_server.tokens import Keys, Scope, read_keys

MODEL_NAME = "bench"
_VERSION = "1.0"
# More than the largest payload.
_MAX_REQUEST_BYTES = 16_000_000
_POLL_S = 0.005
_MODEL_CONFIG = "handler: {mode: sequence_classification, max_length: 128, output: scores, dtype: %s}\n"

# Where an answer holds what is compared.
_READ: dict[Model, Callable[[Any], Answer]] = {
    "echo": lambda document: document["text"],
    "length": lambda document: document["length"],
    "minilm": lambda document: list(document["probabilities"].values()),
}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the server listens, and the file that has its tokens."""

    inference: str
    management: str
    metrics: str
    key_file: Path


@dataclass(frozen=True, slots=True)
class ManagedServer:
    """A `modelserver` that is ready, with the rest of what it can be asked.

    Attributes:
        asked: its predictions; the model is called `MODEL_NAME`.
        store: its model store.
        authorization: what the management API wants in the header of that name.
    """

    asked: RunningServer
    addresses: Addresses
    store: Path
    authorization: str

    def register(self, url: str, name: str) -> None:
        """Without workers. Raises BenchmarkError when it is refused, as all of these do."""
        self._manage("POST", f"/models?{urllib.parse.urlencode({'url': url, 'model_name': name})}&initial_workers=0")

    def unregister(self, name: str) -> None:
        self._manage("DELETE", f"/models/{name}")

    def scale(self, workers: int) -> None:
        """Returns when that many are ready."""
        self._manage("PUT", f"/models/{MODEL_NAME}?min_worker={workers}&max_worker={workers}&synchronous=true")

    def ready_workers(self) -> frozenset[int]:
        """Process ids."""
        (version,) = self._manage("GET", f"/models/{MODEL_NAME}")
        return frozenset(worker["pid"] for worker in version["workers"] if worker["status"] == "READY")

    def with_ready_workers(self) -> "ManagedServer":
        """The same, knowing the processes that run the handler by now."""
        return replace(self, asked=self.asked.with_workers(self.ready_workers()))

    def list_models(self) -> None:
        """All of them, in pages as large as the server gives."""
        page: dict[str, Any] = {"nextPageToken": "0"}
        while "nextPageToken" in page:
            page = self._manage("GET", f"/models?limit=1000&next_page_token={page['nextPageToken']}")

    def scrape(self) -> bytes:
        """Needs no token."""
        return _get(f"{self.addresses.metrics}/metrics")

    def _manage(self, method: str, path: str) -> Any:
        headers = {"Authorization": self.authorization}
        request = urllib.request.Request(f"{self.addresses.management}{path}", headers=headers, method=method)
        try:
            with urllib.request.urlopen(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise BenchmarkError(f"{method} {path} gave {error.code}: {error.read().decode()}") from error


class ModelServer:
    """The `modelserver` of this checkout, as it is shipped: whoever asks it needs a token."""

    name = "modelserver"

    @contextmanager
    def running(self, deployment: Deployment, assets: Assets) -> Iterator[RunningServer]:
        with self.managed(deployment, assets) as server:
            yield server.asked

    @contextmanager
    def managed(self, deployment: Deployment, assets: Assets, max_workers: int = 1) -> Iterator[ManagedServer]:
        with tempfile.TemporaryDirectory(dir=assets.folder) as name:
            folder = Path(name)
            pack(_pack_request(deployment, assets, folder))
            (port,) = free_ports(1)
            (folder / "config.properties").write_text(_properties(deployment, max_workers, port), encoding="utf-8")
            with _launched(folder, deployment.threads) as (launch, status):
                port_open_s = _wait_open(launch, port)
                addresses = _wait_ready(launch, status)
                keys = read_keys(addresses.key_file)
                asked = _asked(launch, addresses, keys, deployment.model, port_open_s)
                yield ManagedServer(asked, addresses, folder, _bearer(keys, "management")).with_ready_workers()


def _asked(launch: Launch, addresses: Addresses, keys: Keys, model: Model, port_open_s: float) -> RunningServer:
    return RunningServer(
        url=f"{addresses.inference}/predictions/{MODEL_NAME}",
        tag=launch.tag,
        launched_s=launch.launched_s,
        worker_pids=frozenset(),
        encode=_encode,
        decode=lambda body: _READ[model](json.loads(body)),
        port_open_s=port_open_s,
        authorization=_bearer(keys, "inference"),
    )


def _bearer(keys: Keys, scope: Scope) -> str:
    return f"Bearer {keys[scope].key}"


def _pack_request(deployment: Deployment, assets: Assets, folder: Path) -> PackRequest:
    if deployment.model != "minilm":
        return PackRequest(MODEL_NAME, _VERSION, str(MODELS / f"{deployment.model}.py"), export_path=str(folder))
    config_file = folder / "model-config.yaml"
    config_file.write_text(_MODEL_CONFIG % deployment.dtype, encoding="utf-8")
    files = ("config.json", "tokenizer.json", "tokenizer_config.json")
    return PackRequest(
        MODEL_NAME,
        _VERSION,
        "transformer_handler",
        serialized_file=str(assets.minilm / "model.safetensors"),
        extra_files=",".join(str(assets.minilm / file) for file in files),
        config_file=str(config_file),
        export_path=str(folder),
    )


def _properties(deployment: Deployment, max_workers: int, port: int) -> str:
    model = {
        "minWorkers": 1,
        "maxWorkers": max_workers,
        "batchSize": deployment.batch_size,
        "maxBatchDelay": deployment.max_delay_ms,
    }
    # Port 0 is any free port. Two spellings of one host: equal addresses would share a listener.
    return (
        f"inference_address=http://127.0.0.1:{port}\n"
        "management_address=http://localhost:0\n"
        "metrics_address=http://127.0.0.1:0\ngrpc_inference_port=0\ngrpc_management_port=0\n"
        f"max_request_size={_MAX_REQUEST_BYTES}\n"
        f"models={json.dumps({MODEL_NAME: {_VERSION: model}})}\n"
    )


@contextmanager
def _launched(folder: Path, threads: int) -> Iterator[tuple[Launch, TextIO]]:
    """The server's first process and its status events."""
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**QUIET_ENVIRONMENT, "TMPDIR": str(temporary), "OMP_NUM_THREADS": str(threads)}
    read_fd, write_fd = os.pipe()
    with (
        os.fdopen(read_fd, encoding="utf-8") as status,
        os.fdopen(write_fd, "wb") as servers_end,
        launched(_command(folder, write_fd), environment, folder, (write_fd,)) as launch,
    ):
        servers_end.close()
        yield launch, status


def _command(folder: Path, status_fd: int) -> list[str]:
    flags = ["--start", "--foreground", "--enable-model-api"]
    files = ["--ts-config", str(folder / "config.properties"), "--model-store", str(folder)]
    flags += ["--status-fd", str(status_fd)]
    return [
        sys.executable,
        "-P",
        "-m",
        "model_server.cli",
        *flags,
        *files,
        "--models",
        f"{MODEL_NAME}={MODEL_NAME}.mar",
    ]


def _wait_open(launch: Launch, port: int) -> float:
    """Returns when the port can be connected to, with the seconds since the launch, or when the server has ended."""
    while launch.process.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(_POLL_S)
    return time.monotonic() - launch.launched_s


def _wait_ready(launch: Launch, status: Iterable[str]) -> Addresses:
    addresses = None
    for event in map(json.loads, status):
        match event:
            case {
                "event": "listening",
                "inference": inference,
                "management": management,
                "metrics": metrics,
                "key_file": key_file,
            }:
                addresses = Addresses(inference, management, metrics, Path(key_file))
            case {"event": "model", "state": "FAILED", "reason": reason}:
                raise launch.failure(f"The model was not loaded: {reason}")
            case {"event": "error", "message": message}:
                raise launch.failure(f"The server did not start: {message}")
            case {"event": "ready"} if addresses is not None:
                return addresses
    raise launch.failure("The server ended while it was starting.")


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:
        body: bytes = response.read()
    return body


def _encode(question: Input) -> Request:
    if isinstance(question, bytes):
        return Request(question, "application/octet-stream")
    return Request(json.dumps({"text": question}).encode(), "application/json")
