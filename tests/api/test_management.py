"""Scaling, describing and listing models; methods and paths of the management port."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests
from servers import MIRROR, Server, Servers, error_of, eventually, exchange

UPDATING = "Processing worker updates..."
DESCRIBES_ITSELF = """
class Handler:
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            assert data == [{}] and context.get_request_header(0, "explain") is None
            return [self.describe_handle()]
        return ["fine"] * len(data)

    def describe_handle(self):
        return WHAT
"""

# Keys that TorchServe has, in its order, and ours after them.
KEYS = [
    "modelName",
    "modelVersion",
    "modelUrl",
    "runtime",
    "minWorkers",
    "maxWorkers",
    "batchSize",
    "maxBatchDelay",
    "responseTimeout",
    "startupTimeout",
    "maxRetryTimeoutInSec",
    "clientTimeoutInMills",
    "parallelType",
    "parallelLevel",
    "deviceType",
    "continuousBatching",
    "useJobTicket",
    "useVenv",
    "stateful",
    "sequenceMaxIdleMSec",
    "sequenceTimeoutMSec",
    "maxNumSequence",
    "maxSequenceJobQueueSize",
    "loadedAtStartup",
    "workers",
    "jobQueueStatus",
]
WORKER_KEYS = ["id", "startTime", "status", "memoryUsage", "pid", "gpu", "gpuUsage"]


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    archives = module_servers.archives
    archives.pack("mirror", MIRROR, version="2.0", file="mirror-2.0.mar")
    archives.pack("mirror", MIRROR)
    for name, what in (
        ("says_object", '{"data1": "1", "data2": "2"}'),
        ("says_none", "None"),
        ("says_list", "[1]"),
        ("says_text", '"text"'),
    ):
        archives.pack(name, DESCRIBES_ITSELF.replace("WHAT", what))
    archives.pack("raises", DESCRIBES_ITSELF.replace("WHAT", "1 / 0"))
    archives.pack("absent_handler", MIRROR)
    models = ["mirror.mar", "mirror-2.0.mar", "says_object.mar", "says_none.mar", "says_list.mar", "says_text.mar"]
    return module_servers.start([*models, "raises.mar"])


def scale(server: Server, path: str = "models/mirror", **parameters: Any) -> requests.Response:
    return server.manage("PUT", path, params=parameters)


def ok(answer: requests.Response, status: int = 200) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["status"])


def workers(server: Server) -> tuple[int, int, int]:
    """minWorkers, maxWorkers and how many there are."""
    description = server.describe("mirror")[0]
    return description["minWorkers"], description["maxWorkers"], len(description["workers"])


# --- scaling ---


def test_scale_up_and_down_synchronously(server: Server) -> None:
    assert ok(scale(server, min_worker=3, synchronous="true")) == "Workers scaled to 3 for model: mirror"
    assert workers(server) == (3, 3, 3)
    workers_before = server.describe("mirror")[0]["workers"]
    text = ok(scale(server, "models/mirror/1.0", min_worker=1, synchronous="TRUE"))
    assert text == "Workers scaled to 1 for model: mirror, version: 1.0"
    assert workers(server) == (1, 1, 1)
    assert server.describe("mirror")[0]["workers"][0]["pid"] == workers_before[0]["pid"], "the newest go first"
    assert server.predict("mirror", b"x").status_code == 200


def test_scale_asynchronously_is_the_default(server: Server) -> None:
    assert ok(scale(server, min_worker=2), 202) == UPDATING
    server.wait_model_ready("mirror", 2)
    assert ok(scale(server, min_worker=1), 202) == UPDATING
    eventually(lambda: workers(server) == (1, 1, 1), "one worker")


def test_the_version_may_be_a_parameter(server: Server) -> None:
    text = ok(scale(server, model_version="2.0", min_worker=2, synchronous="true"))
    assert text == "Workers scaled to 2 for model: mirror, version: 2.0"
    assert len(server.describe("mirror", "2.0")[0]["workers"]) == 2
    assert workers(server)[2] == 1
    ok(scale(server, "models/mirror/2.0", min_worker=1, synchronous="true"))


def test_between_minimum_and_maximum_nothing_changes(server: Server) -> None:
    ok(scale(server, min_worker=2, synchronous="true"))
    pids = server.worker_pids("mirror")
    ok(scale(server, min_worker=1, max_worker=4, synchronous="true"))
    assert workers(server) == (1, 4, 2)
    assert server.worker_pids("mirror") == pids
    ok(scale(server, min_worker=1, synchronous="true"))


def test_no_workers_and_back(server: Server) -> None:
    assert ok(scale(server, min_worker=0, synchronous="true")) == "Workers scaled to 0 for model: mirror"
    assert workers(server) == (0, 0, 0)
    assert server.predict("mirror").status_code == 503
    assert server.infer("GET", "ping").json() == {"status": "Healthy"}
    assert ok(scale(server, synchronous="true")) == "Workers scaled to 1 for model: mirror"
    assert server.predict("mirror", b"x").status_code == 200


@pytest.mark.parametrize("value", ["nan", "", "1.5", "9999999999"])
def test_junk_numbers_count_as_the_default(server: Server, value: str) -> None:
    assert ok(scale(server, min_worker=value, max_worker=value, synchronous="true")).startswith("Workers scaled to 1")
    assert workers(server) == (1, 1, 1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_worker": 2, "max_worker": 1}, "max_worker cannot be less than min_worker."),
        ({"max_worker": -1}, "max_worker cannot be less than min_worker."),
        ({"max_worker": 0}, "max_worker cannot be less than min_worker."),
        ({"min_worker": -1}, "min_worker must be 0 or more, not -1."),
        (
            {"min_worker": 2_000_000_000, "max_worker": 2_000_000_000},
            "2000000000 workers are too many: a model has 1000 at most.",
        ),
        ({"min_worker": -5, "max_worker": 2}, "min_worker must be 0 or more, not -5."),
    ],
)
def test_numbers_that_cannot_be(server: Server, parameters: dict[str, Any], message: str) -> None:
    assert error_of(scale(server, **parameters)) == (400, "BadRequestException", message)
    assert workers(server) == (1, 1, 1)


def test_unknown_parameters_are_ignored(server: Server) -> None:
    assert ok(scale(server, min_worker=1, timeout=1, number_gpu=7, surplus="x"), 202) == UPDATING


@pytest.mark.parametrize(
    ("path", "parameters", "type_", "message"),
    [
        ("models/absent", {}, "ModelNotFoundException", "Model not found: absent"),
        (
            "models/mirror/9",
            {},
            "ModelVersionNotFoundException",
            "Model version: 9 does not exist for model: mirror",
        ),
        (
            "models/mirror",
            {"model_version": "9"},
            "ModelVersionNotFoundException",
            "Model version: 9 does not exist for model: mirror",
        ),
    ],
)
def test_scaling_what_is_not_there(
    server: Server, path: str, parameters: dict[str, str], type_: str, message: str
) -> None:
    assert error_of(scale(server, path, **parameters)) == (404, type_, message)


def test_workers_that_do_not_come_up(server: Server) -> None:
    """The model stays registered, and can be registered anew after it was removed."""
    assert ok(server.register("absent_handler.mar", handler="nowhere.py")).endswith("add workers for the model.")
    code, type_, message = error_of(scale(server, "models/absent_handler", min_worker=1, synchronous="true"))
    assert (code, type_) == (500, "InternalServerException")
    assert message.startswith("Failed to start workers for model absent_handler version: null")
    assert "nowhere" in message
    assert server.describe("absent_handler")[0]["workers"][0]["status"] == "UNLOADING"
    assert server.manage("DELETE", "models/absent_handler").status_code == 200
    assert server.register("absent_handler.mar", initial_workers=1).status_code == 200
    assert server.manage("DELETE", "models/absent_handler").status_code == 200


# --- describing ---


def test_a_description_has_these_keys_in_this_order(server: Server) -> None:
    documents = server.describe("mirror")
    assert len(documents) == 1
    document = documents[0]
    assert list(document)[: len(KEYS)] == KEYS
    worker = document["workers"][0]
    assert list(worker)[: len(WORKER_KEYS)] == WORKER_KEYS
    shown = {key: value for key, value in document.items() if key in KEYS and key != "workers"}
    assert shown == {
        "modelName": "mirror",
        "modelVersion": "1.0",
        "modelUrl": "mirror.mar",
        "runtime": "python",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 100,
        "responseTimeout": 120,
        "startupTimeout": 120,
        "maxRetryTimeoutInSec": 300,
        "clientTimeoutInMills": 0,
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "cpu",
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": False,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0,
        "loadedAtStartup": True,
        "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
    }


def test_a_worker_in_a_description(server: Server) -> None:
    worker = server.describe("says_none")[0]["workers"][0]
    assert int(worker["id"]) >= 9000
    assert isinstance(worker["id"], str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker["startTime"])
    assert worker["status"] == "READY"
    assert worker["memoryUsage"] > 1_000_000
    assert worker["pid"] in [process.pid for process in server.processes()]
    assert (worker["gpu"], worker["gpuUsage"]) == (False, "N/A")


def test_describe_versions(server: Server) -> None:
    assert [document["modelVersion"] for document in server.describe("mirror", "2.0")] == ["2.0"]
    assert [document["modelVersion"] for document in server.describe("mirror", "all")] == ["1.0", "2.0"]
    customized = server.manage("GET", "models/mirror/all", params={"customized": "true"}).json()
    assert [document["modelVersion"] for document in customized] == ["1.0", "2.0"]
    assert "customizedMetadata" not in customized[0]


@pytest.mark.parametrize(
    ("name", "metadata"),
    [("says_object", {"data1": "1", "data2": "2"}), ("says_list", {}), ("says_text", {}), ("says_none", None)],
)
def test_customized_descriptions(server: Server, name: str, metadata: dict[str, str] | None) -> None:
    document = server.manage("GET", f"models/{name}", params={"customized": "true"}).json()[0]
    assert document.get("customizedMetadata") == metadata
    assert ("customizedMetadata" in document) == (metadata is not None)
    assert "customizedMetadata" not in server.describe(name)[0]


def test_a_handler_that_cannot_describe_itself(server: Server) -> None:
    answer = server.manage("GET", "models/raises", params={"customized": "true"})
    assert error_of(answer)[0] == 503
    assert server.predict("raises", b"x").content == b"fine"


def test_customized_without_workers(server: Server) -> None:
    assert ok(server.register("says_object.mar", model_name="idle"))
    message = 'Model "idle" has no worker to serve describe request. Please use scale workers API to add workers.'
    answer = server.manage("GET", "models/idle", params={"customized": "true"})
    assert error_of(answer) == (503, "ServiceUnavailableException", message)
    assert server.manage("DELETE", "models/idle").status_code == 200


@pytest.mark.parametrize(
    ("path", "type_", "message"),
    [
        ("models/absent", "ModelNotFoundException", "Model not found: absent"),
        ("models/absent/all", "ModelNotFoundException", "Model not found: absent"),
        ("models/mirror/9", "ModelVersionNotFoundException", "Model version: 9 does not exist for model: mirror"),
    ],
)
def test_describing_what_is_not_there(server: Server, path: str, type_: str, message: str) -> None:
    assert error_of(server.manage("GET", path)) == (404, type_, message)


def test_readiness_for_kserve(server: Server) -> None:
    assert server.manage("GET", "v1/models/mirror").json() == {"name": "mirror", "ready": True}
    assert error_of(server.manage("GET", "v1/models/absent"))[0] == 404
    assert error_of(server.manage("POST", "v1/models/mirror"))[0] == 405


# --- listing ---

NAMES = ["mirror", "raises", "says_list", "says_none", "says_object", "says_text"]


@pytest.mark.parametrize(
    ("query", "names", "token"),
    [
        ("", NAMES, None),
        ("limit=200", NAMES, None),
        ("limit=-1", NAMES, None),
        ("limit=", NAMES, None),
        ("limit=junk&next_page_token=junk", NAMES, None),
        ("limit=2", NAMES[:2], "2"),
        ("limit=2&next_page_token=2", NAMES[2:4], "4"),
        # A page that ends exactly at the end still names a next one.
        ("limit=2&next_page_token=4", NAMES[4:], "6"),
        ("limit=2&next_page_token=5", NAMES[5:], None),
        ("next_page_token=6", [], None),
        ("next_page_token=1000000000", [], None),
        ("next_page_token=-3", NAMES, None),
        ("limit=0", [], "0"),
    ],
)
def test_pages(server: Server, query: str, names: list[str], token: str | None) -> None:
    answer = server.manage("GET", f"models?{query}")
    document: dict[str, Any] = answer.json()
    assert [model["modelName"] for model in document["models"]] == names
    assert document.get("nextPageToken") == token
    assert list(document)[-1] == "models"


def test_an_entry_of_the_list(server: Server) -> None:
    models = server.manage("GET", "models/").json()["models"]
    assert models[0] == {"modelName": "mirror", "modelUrl": "mirror.mar"}


# --- methods and paths ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "models"),
        ("DELETE", "models"),
        ("PATCH", "models"),
        ("POST", "models/mirror"),
        ("PATCH", "models/mirror"),
        ("POST", "models/mirror/1.0"),
        ("GET", ""),
        ("POST", ""),
    ],
)
def test_methods_that_are_not_allowed(server: Server, method: str, path: str) -> None:
    message = "Requested method is not allowed, please refer to API document."
    assert error_of(server.manage(method, path)) == (405, "MethodNotAllowedException", message)


@pytest.mark.parametrize("path", ["nothing", "predictions/mirror", "ping", "/models", "model"])
def test_paths_that_are_not_there(server: Server, path: str) -> None:
    message = "Requested resource is not found, please refer to API document."
    assert error_of(server.manage("GET", path)) == (404, "ResourceNotFoundException", message)


def test_set_default_is_a_put(server: Server) -> None:
    """`GET` on that path describes the default version, as it does in TorchServe."""
    document = server.manage("GET", "models/mirror/2.0/set-default").json()
    assert [model["modelName"] for model in document] == ["mirror"]


def test_documents_of_the_management_port_on_the_wire(server: Server) -> None:
    answer = exchange(server.management, b"GET /models?limit=1 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer.status_line == "HTTP/1.1 200 OK"
    assert answer.body == (
        b'{\n  "nextPageToken": "1",\n  "models": [\n    {\n      "modelName": "mirror",\n'
        b'      "modelUrl": "mirror.mar"\n    }\n  ]\n}\n'
    )
    assert answer.header("content-type") == "application/json"
