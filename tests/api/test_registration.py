"""Registering and unregistering models while the server runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from servers import MIRROR, Server, Servers, error_of, eventually, together

INITIAL = 'Model "{name}" Version: 1.0 registered with {workers} initial workers'
ASK_FOR_WORKERS = ". Use scale workers API to add workers for the model."
UPDATING = "Processing worker updates..."

FAILS_TO_LOAD = """
class Handler:
    def initialize(self, context):
        raise ValueError("weights are missing")

    def handle(self, data, context):
        return data
"""


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    archives = module_servers.archives
    archives.pack("mirror", MIRROR)
    archives.pack("other", MIRROR)
    archives.pack("min_two", MIRROR, config={"minWorkers": 2, "maxWorkers": 3})
    archives.pack("only_min", MIRROR, config={"minWorkers": 2})
    archives.pack("batches", MIRROR, config={"batchSize": 8, "maxBatchDelay": 200, "responseTimeout": 33})
    archives.pack("fails", FAILS_TO_LOAD)
    return module_servers.start(["other.mar"])


@pytest.fixture(autouse=True)
def _only_the_other_model_stays(server: Server) -> Iterator[None]:
    """What a failed test leaves behind must not fail the next one."""
    yield
    for name in [name for name in server.model_names() if name != "other"]:
        for version in reversed(server.describe(name, "all")):
            server.manage("DELETE", f"models/{name}/{version['modelVersion']}")


def ok(answer: requests.Response, status: int = 200) -> str:
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert list(document) == ["status"]
    return str(document["status"])


def remove(server: Server, name: str, version: str | None = None) -> None:
    path = f"models/{name}" + (f"/{version}" if version else "")
    assert ok(server.manage("DELETE", path)) == f'Model "{name}" unregistered'


def test_without_workers_a_model_is_only_registered(server: Server) -> None:
    assert ok(server.register("mirror.mar")) == INITIAL.format(name="mirror", workers=0) + ASK_FOR_WORKERS
    assert server.describe("mirror")[0]["workers"] == []
    assert server.predict("mirror").status_code == 503
    remove(server, "mirror")
    assert server.model_names() == ["other"]
    assert server.predict("mirror").status_code == 404


def test_a_synchronous_registration_answers_when_the_model_does(server: Server) -> None:
    assert ok(server.register("mirror.mar", initial_workers=2)) == INITIAL.format(name="mirror", workers=2)
    assert len(server.worker_pids("mirror")) == 2
    assert server.predict("mirror", b"x").status_code == 200
    remove(server, "mirror")


def test_an_asynchronous_registration_answers_at_once(server: Server) -> None:
    assert ok(server.register("mirror.mar", initial_workers=1, synchronous="false"), 202) == UPDATING
    server.wait_model_ready("mirror")
    assert server.predict("mirror", b"x").status_code == 200
    remove(server, "mirror")


@pytest.mark.parametrize("synchronous", ["Nan", "no", "", "0"])
def test_whatever_is_not_true_is_asynchronous(server: Server, synchronous: str) -> None:
    assert ok(server.register("mirror.mar", initial_workers=1, synchronous=synchronous), 202) == UPDATING
    server.wait_model_ready("mirror")
    remove(server, "mirror")


@pytest.mark.parametrize(
    ("body", "workers"),
    [
        ('{"url": "mirror.mar", "initial_workers": 1, "batch_size": 4, "synchronous": true}', 1),
        ("{'url': 'mirror.mar', 'initial_workers': '1', 'batch_size': '4', 'synchronous': 'true'}", 1),
        ('{"url": "mirror.mar", "batch_size": 4}', 0),
    ],
)
def test_parameters_as_a_json_body(server: Server, body: str, workers: int) -> None:
    """The query is not read then; single quotes and quoted numbers pass, as TorchServe's parser lets them."""
    headers = {"Content-Type": "application/json"}
    query = {"model_name": "ignored", "batch_size": 7}
    text = ok(server.manage("POST", "models", data=body, headers=headers, params=query))
    assert text.startswith(INITIAL.format(name="mirror", workers=workers))
    description = server.describe("mirror")[0]
    assert (description["batchSize"], description["maxBatchDelay"]) == (4, 100)
    remove(server, "mirror")


@pytest.mark.parametrize("body", ["", "{", "[]", "17", '"mirror.mar"', '{"url": '])
def test_a_body_that_is_no_json_object(server: Server, body: str) -> None:
    answer = server.manage("POST", "models", data=body.encode(), headers={"Content-Type": "application/json"})
    assert error_of(answer)[0] == 500
    assert server.model_names() == ["other"]


@pytest.mark.parametrize("field", ["batch_size", "initial_workers", "response_timeout"])
def test_a_number_in_a_json_body_that_is_none(server: Server, field: str) -> None:
    body = json.dumps({"url": "mirror.mar", field: "many"})
    answer = server.manage("POST", "models", data=body, headers={"Content-Type": "application/json"})
    assert error_of(answer)[0] == 500
    assert server.model_names() == ["other"]


def test_a_form_body_is_not_read(server: Server) -> None:
    answer = server.manage("POST", "models", data={"url": "mirror.mar"})
    assert error_of(answer) == (400, "BadRequestException", "Parameter url is required.")


def test_what_the_request_says_wins(server: Server) -> None:
    ok(
        server.register(
            "batches.mar",
            model_name="renamed",
            batch_size=4,
            max_batch_delay=5000,
            response_timeout=7,
            startup_timeout=9,
            runtime="python3",
        )
    )
    description = server.describe("renamed")[0]
    assert (description["batchSize"], description["maxBatchDelay"]) == (4, 5000)
    # Timeouts: the archive's configuration wins.
    assert (description["responseTimeout"], description["startupTimeout"]) == (33, 9)
    assert (description["modelName"], description["modelUrl"], description["runtime"]) == (
        "renamed",
        "batches.mar",
        "python3",
    )
    remove(server, "renamed")


def test_what_the_archive_says_holds_where_the_request_is_silent(server: Server) -> None:
    ok(server.register("batches.mar"))
    description = server.describe("batches")[0]
    assert (description["batchSize"], description["maxBatchDelay"], description["responseTimeout"]) == (8, 200, 33)
    remove(server, "batches")


@pytest.mark.parametrize("name", ["batch_size", "max_batch_delay", "initial_workers", "response_timeout"])
@pytest.mark.parametrize("value", ["dd", "", "1.5", "0x10", str(2**31), "1e3", " 4", "1_000"])
def test_junk_numbers_count_as_not_given(server: Server, name: str, value: str) -> None:
    """No refusal, as clients know it; the log says it."""
    ok(server.register("mirror.mar", **{name: value}))
    description = server.describe("mirror")[0]
    assert (description["batchSize"], description["maxBatchDelay"], description["responseTimeout"]) == (1, 100, 120)
    assert description["workers"] == []
    remove(server, "mirror")
    assert f"{name}={value!r}" in server.log_text()


def test_minus_one_worker_is_none(server: Server) -> None:
    assert ok(server.register("mirror.mar", initial_workers=-1)).endswith(ASK_FOR_WORKERS)
    remove(server, "mirror")


@pytest.mark.parametrize(
    ("archive", "initial_workers", "minimum", "maximum"),
    [
        ("min_two", None, 2, 3),
        ("min_two", 1, 2, 3),
        ("min_two", 0, 2, 3),
        ("min_two", 4, 4, 4),
        ("only_min", None, 2, 2),
        ("only_min", 1, 2, 2),
        ("mirror", 1, 1, 1),
    ],
)
def test_the_larger_number_of_workers_counts(
    server: Server, archive: str, initial_workers: int | None, minimum: int, maximum: int
) -> None:
    parameters: dict[str, Any] = {} if initial_workers is None else {"initial_workers": initial_workers}
    assert ok(server.register(f"{archive}.mar", **parameters)) == INITIAL.format(name=archive, workers=minimum)
    description = server.describe(archive)[0]
    assert (description["minWorkers"], description["maxWorkers"]) == (minimum, maximum)
    assert [worker["status"] for worker in description["workers"]] == ["READY"] * minimum
    remove(server, archive)


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({}, (400, "BadRequestException", "Parameter url is required.")),
        ({"url": ""}, (404, "ModelNotFoundException", "empty url")),
        ({"url": "absent.mar"}, (404, "ModelNotFoundException", "Model not found at: absent.mar")),
        (
            {"url": "../mirror.mar"},
            (404, "ModelNotFoundException", "Relative path is not allowed in url: ../mirror.mar"),
        ),
        (
            {"url": "http://127.0.0.1/mirror.mar"},
            (
                404,
                "ModelNotFoundException",
                "Given URL http://127.0.0.1/mirror.mar does not match any allowed URL(s)",
            ),
        ),
        (
            {"url": "file:///etc/passwd"},
            (404, "ModelNotFoundException", "Given URL file:///etc/passwd does not match any allowed URL(s)"),
        ),
        (
            # Looked at before the archive is.
            {"url": "absent.mar", "runtime": "python4"},
            (400, "BadRequestException", "Invalid RuntimeType value: python4"),
        ),
        (
            {"url": "mirror.mar", "runtime": "Python"},
            (400, "BadRequestException", "Invalid RuntimeType value: Python"),
        ),
        (
            {"url": "mirror.mar", "initial_workers": "2147483647"},
            (400, "BadRequestException", "2147483647 workers are too many: a model has 1000 at most."),
        ),
        (
            {"url": "other.mar"},
            (409, "ConflictStatusException", "Model version 1.0 is already registered for model other"),
        ),
    ],
)
def test_refused_registrations(server: Server, parameters: dict[str, str], error: tuple[int, str, str]) -> None:
    assert error_of(server.manage("POST", "models", params=parameters)) == error
    assert server.model_names() == ["other"]
    assert len(server.unpacked()) == 1


@pytest.mark.parametrize("name", ["a/b", "..", " ", "a\nb", "-a", "ä", "x" * 129, "$(id)", '"', "a\0b"])
def test_names_that_no_path_could_reach_are_refused(server: Server, name: str) -> None:
    code, type_, message = error_of(server.register("mirror.mar", model_name=name))
    assert (code, type_) == (400, "BadRequestException")
    assert repr(name)[1:-1][:20] in message
    assert server.model_names() == ["other"]
    assert len(server.unpacked()) == 1


def test_a_url_means_its_last_part_in_the_store(server: Server) -> None:
    for url in ("sub/mirror.mar", "/somewhere/mirror.mar"):
        ok(server.register(url))
        assert server.describe("mirror")[0]["modelUrl"] == url
        remove(server, "mirror")


def test_registered_twice_at_once_one_wins(server: Server) -> None:
    answers = together(*[lambda: server.register("mirror.mar", initial_workers=1)] * 16)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 15
    assert {error_of(answer)[1] for answer in answers if answer.status_code == 409} == {"ConflictStatusException"}
    assert len(server.describe("mirror")[0]["workers"]) == 1
    assert len(server.unpacked()) == 2
    remove(server, "mirror")
    assert len(server.unpacked()) == 1


def test_a_failed_synchronous_registration_leaves_nothing(server: Server) -> None:
    before = server.unpacked()
    code, type_, message = error_of(server.register("fails.mar", initial_workers=2))
    assert (code, type_) == (500, "InternalServerException")
    assert message.startswith("Failed to start workers for model fails version: 1.0")
    assert "ValueError: weights are missing" in message
    assert server.model_names() == ["other"]
    assert server.manage("GET", "models/fails").status_code == 404
    assert server.unpacked() == before
    eventually(lambda: len(server.model_processes()) == 1, "only the worker of the other model")
    eventually(lambda: "raise ValueError" in server.log_text(), "the traceback in the log")


def test_a_failed_asynchronous_registration_stays_and_says_why(server: Server) -> None:
    assert ok(server.register("fails.mar", initial_workers=1, synchronous="false"), 202) == UPDATING
    worker = eventually(
        lambda: next((w for w in server.describe("fails")[0]["workers"] if "reason" in w), None), "a reason"
    )
    assert worker["status"] == "UNLOADING"
    assert "ValueError: weights are missing" in worker["reason"]
    remove(server, "fails")


def test_memory_that_runs_out_while_loading_is_507(server: Server, module_servers: Servers) -> None:
    module_servers.archives.pack("memory", FAILS_TO_LOAD.replace("ValueError(", "MemoryError("), force=True)
    assert error_of(server.register("memory.mar", initial_workers=1))[:2] == (507, "InternalServerException")
    assert server.model_names() == ["other"]


def test_a_startup_timeout(server: Server, module_servers: Servers) -> None:
    """The hung worker is killed, its stack is in the log, the registration is taken back."""
    slow = "import time\n\ndef handle(data, context):\n    while data is None:\n        time.sleep(60)\n"
    module_servers.archives.pack("slow", slow, force=True)
    code, type_, message = error_of(server.register("slow.mar", initial_workers=1, startup_timeout=1))
    assert (code, type_) == (500, "InternalServerException")
    assert "startup_timeout" in message
    assert server.model_names() == ["other"]
    eventually(lambda: "slow_handler.py" in server.log_text(), "the stack in the log")


@pytest.mark.parametrize("path", ["models/absent", "models/absent/1.0"])
def test_unregister_what_is_not_there(server: Server, path: str) -> None:
    assert error_of(server.manage("DELETE", path)) == (404, "ModelNotFoundException", "Model not found: absent")


def test_unregister_a_version_that_is_not_there(server: Server) -> None:
    message = "Model version: 9 does not exist for model: other"
    assert error_of(server.manage("DELETE", "models/other/9")) == (404, "ModelVersionNotFoundException", message)


def test_unregister_ends_the_workers_and_keeps_the_archive(server: Server, module_servers: Servers) -> None:
    ok(server.register("mirror.mar", initial_workers=1))
    pid = server.worker_pids("mirror")[0]
    assert ok(server.manage("DELETE", "models/mirror/?synchronous=true&timeout=1")) == 'Model "mirror" unregistered'
    assert pid not in [process.pid for process in server.processes()]
    assert (module_servers.archives.folder / "mirror.mar").is_file()


def test_versions(server: Server, module_servers: Servers) -> None:
    """The first version is the default until another is chosen; the default cannot go while there are others."""
    for version in ("1.0", "2.0"):
        module_servers.archives.pack("versions", MIRROR, version=version, file=f"versions-{version}.mar", force=True)
        ok(server.register(f"versions-{version}.mar", initial_workers=1))
    assert server.predict("versions", b"").json()["version"] == "1.0"
    assert server.predict("versions/2.0", b"").json()["version"] == "2.0"
    refusal = (403, "InvalidModelVersionException", "Cannot remove default version for model versions")
    assert error_of(server.manage("DELETE", "models/versions/1.0")) == refusal
    assert error_of(server.manage("DELETE", "models/versions")) == refusal

    text = ok(server.manage("PUT", "models/versions/2.0/set-default"))
    assert text == 'Default version successfully updated for model "versions" to "2.0"'
    assert server.predict("versions", b"").json()["version"] == "2.0"
    assert [model["modelVersion"] for model in server.describe("versions", "all")] == ["1.0", "2.0"]
    remove(server, "versions", "1.0")
    assert server.predict("versions/1.0", b"").status_code == 404
    remove(server, "versions")
    assert server.model_names() == ["other"]


def test_set_default_of_what_is_not_there(server: Server) -> None:
    assert error_of(server.manage("PUT", "models/absent/1.0/set-default")) == (
        404,
        "ModelNotFoundException",
        "Model not found: absent",
    )
    assert error_of(server.manage("PUT", "models/other/9/set-default")) == (
        404,
        "ModelVersionNotFoundException",
        "Model version 9 does not exist for model other",
    )


def test_registration_is_off_unless_enabled(servers: Servers) -> None:
    servers.archives.pack("mirror", MIRROR)
    server = servers.start(["mirror.mar"], args=[])
    message = "Requested method is not allowed, please refer to API document."
    for answer in (server.register("mirror.mar", model_name="again"), server.manage("DELETE", "models/mirror")):
        assert error_of(answer) == (405, "MethodNotAllowedException", message)
    assert server.model_names() == ["mirror"]
    scaled = server.manage("PUT", "models/mirror", params={"min_worker": 2, "synchronous": "true"})
    assert ok(scaled) == "Workers scaled to 2 for model: mirror"


def test_unregistering_that_takes_too_long_can_be_tried_again(servers: Servers) -> None:
    servers.archives.pack("mirror", MIRROR)
    server = servers.start(["mirror.mar"], {"unregister_model_timeout": 0})
    assert error_of(server.manage("DELETE", "models/mirror")) == (
        408,
        "RequestTimeoutException",
        "Timed out while cleaning resources: mirror",
    )
    answer = eventually(lambda: (a := server.manage("DELETE", "models/mirror")).status_code != 408 and a, "a success")
    assert ok(answer) == 'Model "mirror" unregistered'


def test_a_client_that_goes_away_does_not_stop_a_registration(server: Server, module_servers: Servers) -> None:
    module_servers.archives.pack("lasts", f"import time\ntime.sleep(0.5)\n{MIRROR}")
    with pytest.raises(requests.exceptions.ReadTimeout):
        server.manage("POST", "models", params={"url": "lasts.mar", "initial_workers": 1}, timeout=0.1)
    eventually(lambda: "lasts" in server.model_names(), "the model")
    server.wait_model_ready("lasts")
    remove(server, "lasts")
