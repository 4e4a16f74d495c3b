"""The peers that can be chosen by name."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archiver.pack import PackRequest, pack
from benchmarks.peers.peer import APPS, Language, Peer, Site
from benchmarks.servers import Deployment, Request
from benchmarks.workloads import Answer, Input

# More than the largest payload, also when it is written in base64.
_MAX_REQUEST_BYTES = 64 << 20
_JSON = "application/json"


def _base64_of(question: bytes) -> str:
    return base64.b64encode(question).decode()


# --- LitServe, Ray Serve, Mosec ---


def _litserve_request(question: Input, _: Deployment) -> Request:
    document = {"data": _base64_of(question)} if isinstance(question, bytes) else {"text": question}
    return Request(json.dumps(document).encode(), _JSON)


LITSERVE = Peer(
    name="litserve",
    packages=("litserve==0.2.19",),
    command=lambda site: [str(site.python), str(APPS / "litserve_app.py")],
    language=Language(_litserve_request, lambda document, _: document["answer"]),
)
RAY = Peer(
    name="ray",
    packages=("ray[serve]==2.60.0",),
    command=lambda site: [str(site.python), str(APPS / "ray_app.py")],
    environment=lambda site: {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp"},  # its socket names are long
)
MOSEC = Peer(
    name="mosec",
    packages=("mosec==0.9.8",),
    command=lambda site: [
        *(str(site.python), str(APPS / "mosec_app.py"), "--address", "127.0.0.1", "--port", str(site.port)),
        *("--timeout", "60000", "--log-level", "warning", "--max-request-size", str(_MAX_REQUEST_BYTES)),
    ],
    path="/inference",
)


# --- BentoML ---


def _bentoml_request(question: Input, deployment: Deployment) -> Request:
    if isinstance(question, bytes):
        return Request(question, "application/octet-stream")
    return Request(json.dumps({"text": [question] if deployment.batch_size > 1 else question}).encode(), _JSON)


def _bentoml_answer(document: Any, deployment: Deployment) -> Answer:
    answer: Answer = document[0] if isinstance(document, list) else document["answer"]
    return answer


BENTOML = Peer(
    name="bentoml",
    packages=("bentoml==1.4.39",),
    command=lambda site: [
        *(site.program("bentoml"), "serve", "bentoml_service:Service"),
        *("--working-dir", str(APPS), "--host", "127.0.0.1", "--port", str(site.port)),
    ],
    language=Language(_bentoml_request, _bentoml_answer),
    environment=lambda site: {"BENTOML_HOME": str(site.folder / "home"), "BENTOML_DO_NOT_TRACK": "True"},
)


# --- MLServer ---


def _mlserver_files(site: Site) -> None:
    deployment = site.deployment
    settings = {
        "host": "127.0.0.1",
        "http_port": site.ports[0],
        "grpc_port": site.ports[1],
        "metrics_port": site.ports[2],
        "parallel_workers": 1,
        "environments_dir": str(site.folder / "environments"),
        "debug": False,
    }
    batching = {"max_batch_size": deployment.batch_size, "max_batch_time": deployment.max_delay_ms / 1000}
    model = {"name": "bench", "implementation": "mlserver_runtime.Runtime"}
    (site.folder / "model").mkdir()
    (site.folder / "settings.json").write_text(json.dumps(settings))
    document = {**model, **(batching if deployment.batch_size > 1 else {})}
    (site.folder / "model" / "model-settings.json").write_text(json.dumps(document))


def _mlserver_request(question: Input, _: Deployment) -> Request:
    content_type, data = ("base64", _base64_of(question)) if isinstance(question, bytes) else ("str", question)
    tensor = {
        "name": "input",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": content_type},
        "data": [data],
    }
    return Request(json.dumps({"inputs": [tensor]}).encode(), _JSON)


MLSERVER = Peer(
    name="mlserver",
    packages=("mlserver==1.7.1", "uvloop==0.21.0"),  # it does not start with newer ones
    command=lambda site: [site.program("mlserver"), "start", str(site.folder)],
    path="/v2/models/bench/infer",
    language=Language(_mlserver_request, lambda document, _: json.loads(document["outputs"][0]["data"][0])),
    prepare=_mlserver_files,
)


# --- TorchServe ---

_QUIET_LOG = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders><Console name="STDOUT" target="SYSTEM_OUT"><PatternLayout pattern="%m%n"/></Console></Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="off" additivity="false"/>
    <Logger name="MODEL_METRICS" level="off" additivity="false"/>
    <Logger name="TS_METRICS" level="off" additivity="false"/>
    <Root level="warn"><AppenderRef ref="STDOUT"/></Root>
  </Loggers>
</Configuration>
"""


def _torchserve_files(site: Site, more: Mapping[str, object]) -> None:
    pack(PackRequest("bench", "1.0", str(APPS / "torchserve_handler.py"), export_path=str(site.folder)))
    deployment = site.deployment
    model = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": deployment.batch_size,
        "maxBatchDelay": deployment.max_delay_ms,
    }
    config = {
        "inference_address": f"http://127.0.0.1:{site.ports[0]}",
        "management_address": f"http://127.0.0.1:{site.ports[1]}",
        "metrics_address": f"http://127.0.0.1:{site.ports[2]}",
        "grpc_inference_port": site.ports[3],
        "grpc_management_port": site.ports[4],
        "max_request_size": _MAX_REQUEST_BYTES,
        "max_response_size": _MAX_REQUEST_BYTES,
        "job_queue_size": 1000,  # what clients that have left still have in it must not be in the way of others
        "models": json.dumps({"bench": {"1.0": model}}),
        **more,
    }
    text = "".join(f"{key}={value}\n" for key, value in config.items())
    (site.folder / "config.properties").write_text(text)


def _torchserve_tuned_files(site: Site) -> None:
    _torchserve_files(site, {"disable_system_metrics": "true"})
    (site.folder / "log4j2.xml").write_text(_QUIET_LOG)


def _torchserve_command(site: Site) -> list[str]:
    flags = ["--start", "--foreground", "--ncs", "--disable-token-auth", "--model-store", str(site.folder)]
    files = ["--ts-config", str(site.folder / "config.properties"), "--models", "bench=bench.mar"]
    return [str(site.python), "-m", "ts.model_server", *flags, *files]


def _torchserve_environment(site: Site) -> dict[str, str]:
    logs = str(Path(site.folder, "logs"))
    return {"LOG_LOCATION": logs, "METRICS_LOCATION": logs}


# nvgpu is imported by TorchServe where a GPU is. The archiver is for the tests, which share the environment.
TORCHSERVE_PACKAGES = ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "enum-compat", "nvgpu")
TORCHSERVE = Peer(
    name="torchserve",
    packages=TORCHSERVE_PACKAGES,
    command=_torchserve_command,
    path="/predictions/bench",
    prepare=lambda site: _torchserve_files(site, {}),
    environment=_torchserve_environment,
)
TORCHSERVE_TUNED = Peer(
    name="torchserve tuned",
    packages=TORCHSERVE_PACKAGES,
    command=lambda site: [*_torchserve_command(site), "--log-config", str(site.folder / "log4j2.xml")],
    path="/predictions/bench",
    prepare=_torchserve_tuned_files,
    environment=_torchserve_environment,
)

PEERS = (TORCHSERVE, TORCHSERVE_TUNED, LITSERVE, MLSERVER, BENTOML, RAY, MOSEC)
