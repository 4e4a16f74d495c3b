"""This project's server, started with its own command and asked over its TorchServe API."""

import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from archiver.pack import PackRequest, pack
from benchmarks.assets import MODELS, Assets
from benchmarks.procs import QUIET_ENVIRONMENT
from benchmarks.servers import Deployment, Launch, Request, RunningServer, launched
from benchmarks.workloads import Answer, Input, Model

_NAME, _VERSION = "bench", "1.0"
# More than the largest payload.
_MAX_REQUEST_BYTES = 16_000_000
_MODEL_CONFIG = (
    "handler: {mode: sequence_classification, max_length: 128, output: scores, captum_explanation: false, dtype: %s}\n"
)

# Where an answer holds what is compared.
_READ: dict[Model, Callable[[Any], Answer]] = {
    "echo": lambda document: document["text"],
    "length": lambda document: document["length"],
    "minilm": lambda document: list(document["probabilities"].values()),
}


class ModelServer:
    """The `modelserver` of this checkout."""

    name = "modelserver"

    @contextmanager
    def running(self, deployment: Deployment, assets: Assets) -> Iterator[RunningServer]:
        with tempfile.TemporaryDirectory(dir=assets.folder) as name:
            folder = Path(name)
            pack(_pack_request(deployment, assets, folder))
            (folder / "config.properties").write_text(_properties(deployment), encoding="utf-8")
            with _launched(folder, deployment.threads) as (launch, status):
                inference, management = _wait_ready(launch, status)
                yield RunningServer(
                    url=f"{inference}/predictions/{_NAME}",
                    tag=launch.tag,
                    launched_s=launch.launched_s,
                    worker_pids=_worker_pids(management),
                    encode=_encode,
                    decode=lambda body: _READ[deployment.model](json.loads(body)),
                )


def _pack_request(deployment: Deployment, assets: Assets, folder: Path) -> PackRequest:
    if deployment.model != "minilm":
        return PackRequest(_NAME, _VERSION, str(MODELS / f"{deployment.model}.py"), export_path=str(folder))
    config_file = folder / "model-config.yaml"
    config_file.write_text(_MODEL_CONFIG % deployment.dtype, encoding="utf-8")
    files = ("config.json", "tokenizer.json", "tokenizer_config.json")
    return PackRequest(
        _NAME,
        _VERSION,
        "transformer_handler",
        serialized_file=str(assets.minilm / "model.safetensors"),
        extra_files=",".join(str(assets.minilm / file) for file in files),
        config_file=str(config_file),
        export_path=str(folder),
    )


def _properties(deployment: Deployment) -> str:
    model = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": deployment.batch_size,
        "maxBatchDelay": deployment.max_delay_ms,
    }
    # Port 0 is any free port. Two spellings of one host, because equal addresses would share a listener.
    return (
        "inference_address=http://127.0.0.1:0\n"
        "management_address=http://localhost:0\n"
        "metrics_address=http://127.0.0.1:0\ngrpc_inference_port=0\ngrpc_management_port=0\n"
        f"max_request_size={_MAX_REQUEST_BYTES}\n"
        f"models={json.dumps({_NAME: {_VERSION: model}})}\n"
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
    flags = ["--start", "--foreground", "--ncs", "--disable-token", "--status-fd", str(status_fd)]
    files = ["--ts-config", str(folder / "config.properties"), "--model-store", str(folder)]
    return [sys.executable, "-P", "-m", "model_server.cli", *flags, *files, "--models", f"{_NAME}={_NAME}.mar"]


def _wait_ready(launch: Launch, status: Iterable[str]) -> tuple[str, str]:
    """Returns the inference and the management address."""
    addresses = ("", "")
    for event in map(json.loads, status):
        match event:
            case {"event": "listening", "inference": inference, "management": management}:
                addresses = inference, management
            case {"event": "model", "state": "FAILED", "reason": reason}:
                raise launch.failure(f"The model was not loaded: {reason}")
            case {"event": "error", "message": message}:
                raise launch.failure(f"The server did not start: {message}")
            case {"event": "ready"}:
                return addresses
    raise launch.failure("The server ended while it was starting.")


def _worker_pids(management: str) -> frozenset[int]:
    with urllib.request.urlopen(f"{management}/models/{_NAME}") as response:
        versions = json.load(response)
    return frozenset(worker["pid"] for version in versions for worker in version["workers"])


def _encode(question: Input) -> Request:
    if isinstance(question, bytes):
        return Request(question, "application/octet-stream")
    return Request(json.dumps({"text": question}).encode(), "application/json")
