"""The gRPC ports as clients of TorchServe use them: real server, stock clients."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_clients import CALL_DEADLINE_S, Client, error_of_call, stubs_folder
from servers import Server, Servers, eventually

# What a request says, in bytes: how many parts come before the last, and which is the last.
STEPS = """
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


def handle(data, context):
    if not data:
        return None
    count, _, last = bytes(data[0]["data"]).decode().partition(" ")
    for number in range(int(count)):
        send_intermediate_predict_response([f"part {number}"], context.request_ids, "Intermediate", 200, context)
    if last == "fail":
        raise PredictionException("broke", 409)
    return [last]
"""

TOTALS = """
from ts.utils.util import PredictionException


class Totals:
    def initialize(self, context):
        self.totals = {}

    def handle(self, data, context):
        return [self.add(int(bytes(row["data"])), context.get_sequence_id(index)) for index, row in enumerate(data)]

    def add(self, number, sequence):
        if number < 0:
            raise PredictionException("no negative numbers", 400)
        self.totals[sequence] = self.totals.get(sequence, 0) + number
        return str(self.totals[sequence])
"""

# Writes down what it got, and waits for the file that a request names.
GATED = """
import pathlib
import time


def handle(data, context):
    if not data:
        return None
    gate = pathlib.Path(bytes(data[0]["data"]).decode())
    (gate.parent / f"began-{gate.name}").touch()
    while not gate.exists():
        time.sleep(0.005)
    return ["through"]
"""

# A stream without end.
ENDLESS = """
import pathlib
from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if not data:
        return None
    try:
        while True:
            send_intermediate_predict_response(["more" * 10_000], context.request_ids, "Intermediate", 200, context)
    finally:
        pathlib.Path(bytes(data[0]["data"]).decode(), "ended").touch()
"""

RAISES = """
from ts.utils.util import PredictionException


def handle(data, context):
    if not data:
        return None
    code, _, text = bytes(data[0]["data"]).decode().partition(" ")
    raise PredictionException(text, int(code))
"""

# The mirror says in JSON what it saw.
SEEN = """
import json


def handle(data, context):
    if not data:
        return None
    seen = {name: [type(value).__name__, bytes(value).hex()] for name, value in data[0].items()}
    context.set_response_status(404, "ignored")
    context.set_response_header(0, "X-Ignored", "1")
    return [json.dumps([seen, context.manifest["model"]["modelVersion"]])]
"""

# An Open Inference response with the doubled numbers and the texts of the request.
DOUBLE = """
import base64
import json


def handle(data, context):
    if not data:
        return None
    request = data[0]["body"]
    outputs = []
    for tensor in request["inputs"]:
        if tensor["datatype"] == "BYTES":
            values = [base64.b64decode(value).decode() for value in tensor["data"]]
        else:
            values = [2 * value for value in tensor["data"]]
        outputs.append({**tensor, "data": values})
    return [{"id": request["id"], "model_name": request["model_name"], "model_version": "1.0", "outputs": outputs}]
"""

NO_WORKER = (
    'Model "{}" has no worker to serve inference request. Please use scale workers API to add workers. '
    "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)
MAX_REQUEST_SIZE = 100_000
ONE_WORKER = {"minWorkers": 1, "maxWorkers": 1}
SEQUENCES = {
    "sequenceBatching": True,
    "batchSize": 8,
    "sequenceMaxIdleMSec": 60_000,
    "maxNumSequence": 16,
    "maxSequenceJobQueueSize": 8,
}


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    archives = module_servers.archives
    archives.pack("seen", SEEN, config=ONE_WORKER)
    archives.pack("steps", STEPS, config=ONE_WORKER)
    archives.pack("totals", TOTALS, config={**ONE_WORKER, **SEQUENCES})
    # Of a stateful model nothing is prefetched: what waits, waits in the queue.
    archives.pack("gated", GATED, config={**ONE_WORKER, **SEQUENCES, "batchSize": 1})
    archives.pack("endless", ENDLESS, config=ONE_WORKER)
    archives.pack("raises", RAISES, config=ONE_WORKER)
    archives.pack("double", DOUBLE, config=ONE_WORKER)
    archives.pack("spare", SEEN, version="2.0", file="spare_2.mar")
    archives.pack("spare", SEEN, config=ONE_WORKER)
    archives.pack("broken", "def handle(data, context):\n    raise ValueError('cannot be loaded')\n")
    models = [f"{name}.mar" for name in ("seen", "steps", "totals", "gated", "endless", "raises", "double")]
    config = {"max_request_size": MAX_REQUEST_SIZE, "ts_open_inference_protocol": "true"}
    return module_servers.start(models, config)


@pytest.fixture(scope="module")
def inference(server: Server) -> Iterator[Client]:
    with Client(str(server.grpc_inference), "inference") as client:
        yield client


@pytest.fixture(scope="module")
def management(server: Server) -> Iterator[Client]:
    with Client(str(server.grpc_management), "management") as client:
        yield client


@pytest.fixture(scope="module")
def open_inference(server: Server) -> Iterator[Client]:
    with Client(str(server.grpc_inference), "open_inference_grpc") as client:
        yield client


def run_script(server: Server, *arguments: str) -> str:
    script = Path(__file__).parents[1] / "torchserve_grpc_client.py"
    command = [sys.executable, str(script), str(server.grpc_inference), str(server.grpc_management), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(stubs_folder())}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=CALL_DEADLINE_S, check=True
    ).stdout


def predict(client: Client, model: str, data: bytes | str, **fields: Any) -> bytes:
    value = data if isinstance(data, bytes) else data.encode()
    answer: bytes = client.call("Predictions", model_name=model, input={"data": value}, **fields).prediction
    return answer


def parts_of(client: Client, model: str, data: str) -> list[bytes]:
    answers = client.call("StreamPredictions", model_name=model, input={"data": data.encode()})
    return [answer.prediction for answer in answers]


# --- TorchServe's client scripts ---


def test_the_script_predicts(server: Server) -> None:
    printed = json.loads(run_script(server, "infer", "seen", "grüße"))
    assert printed == [{"data": ["bytearray", "grüße".encode().hex()]}, "1.0"]


def test_the_script_streams(server: Server) -> None:
    assert run_script(server, "infer_stream", "steps", "3 end").split("\n") == [
        "part 0",
        "part 1",
        "part 2",
        "end",
        "",
    ]


def test_the_script_streams_both_ways(server: Server) -> None:
    assert run_script(server, "infer_stream2", "totals", "1", "2", "3").split() == ["1", "3", "6"]


def test_the_script_registers_and_unregisters(server: Server) -> None:
    registered = run_script(server, "register", "scripted", "spare.mar")
    assert registered == 'Model "scripted" Version: 1.0 registered with 1 initial workers\n'
    assert "scripted" in server.model_names()
    assert run_script(server, "unregister", "scripted") == 'Model "scripted" unregistered\n'
    assert "scripted" not in server.model_names()


# --- predictions ---


def test_health_is_a_json_document(inference: Client) -> None:
    assert inference.call("Ping").health == '{\n  "status": "Healthy"\n}'


def test_every_entry_reaches_the_handler_as_bytes_and_its_status_is_ignored(inference: Client) -> None:
    every_byte = bytes(range(256))
    answer = inference.call("Predictions", model_name="seen", input={"data": every_byte, "other": b""})
    expected = {"data": ["bytearray", every_byte.hex()], "other": ["bytearray", ""]}
    assert json.loads(answer.prediction) == [expected, "1.0"]
    assert not answer.HasField("status")
    assert not answer.HasField("sequence_id")


def test_a_request_without_input_reaches_the_handler(inference: Client) -> None:
    assert json.loads(inference.call("Predictions", model_name="seen").prediction) == [{}, "1.0"]


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
@pytest.mark.parametrize(
    ("fields", "description"),
    [
        ({}, "Parameter model_name is required.\nBadRequestException.()"),
        (
            {"model_name": "nobody"},
            "Model not found: nobody\norg.pytorch.serve.archive.model.ModelNotFoundException",
        ),
        (
            {"model_name": "seen", "model_version": "9"},
            "Model version: 9 does not exist for model: seen\n"
            "org.pytorch.serve.archive.model.ModelVersionNotFoundException",
        ),
    ],
)
def test_what_the_server_refuses_is_internal(
    inference: Client, method: str, fields: dict[str, str], description: str
) -> None:
    call = lambda: inference.call(method, **fields, input={"data": b"x"})  # noqa: E731
    assert error_of_call(call) == ("INTERNAL", description)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "INVALID_ARGUMENT"), (404, "NOT_FOUND"), (409, "ABORTED"), (418, "FAILED_PRECONDITION"), (500, "INTERNAL")],
)
def test_a_handlers_status_becomes_a_code(inference: Client, status: int, code: str) -> None:
    call = lambda: predict(inference, "raises", f"{status} größer")  # noqa: E731
    assert error_of_call(call) == (code, "größer\norg.pytorch.serve.http.InternalServerException")


def test_a_handlers_endless_text_is_cut(inference: Client) -> None:
    code, description = error_of_call(lambda: predict(inference, "raises", "400 " + "ü" * 20_000))
    assert code == "INVALID_ARGUMENT"
    assert description == "ü" * 1000 + "...\norg.pytorch.serve.http.InternalServerException"


def test_a_model_without_workers(server: Server, inference: Client, management: Client) -> None:
    management.call("RegisterModel", url="spare.mar", model_name="idle", initial_workers=1, synchronous=True)
    assert server.manage("PUT", "models/idle?min_worker=0&max_worker=0&synchronous=true").status_code == 200
    expected = ("INTERNAL", NO_WORKER.format("idle") + "\nInternalServerException.()")
    assert error_of_call(lambda: predict(inference, "idle", "x")) == expected
    management.call("UnregisterModel", model_name="idle")


@pytest.mark.parametrize(
    ("data", "parts"),
    [("3 end", [b"part 0", b"part 1", b"part 2", b"end"]), ("0 whole", [b"whole"]), ("0 ", [b""])],
)
def test_one_message_for_each_part(inference: Client, data: str, parts: list[bytes]) -> None:
    assert parts_of(inference, "steps", data) == parts


def test_a_stream_that_fails_has_its_parts_and_then_the_code(inference: Client) -> None:
    answers = inference.call("StreamPredictions", model_name="steps", input={"data": b"2 fail"})
    assert [next(answers).prediction, next(answers).prediction] == [b"part 0", b"part 1"]
    expected = ("ABORTED", "broke\norg.pytorch.serve.http.InternalServerException")
    assert error_of_call(lambda: next(answers)) == expected


def test_a_single_answer_holds_all_parts(inference: Client) -> None:
    assert predict(inference, "steps", "2 end") == b"part 0part 1end"


def test_a_single_answer_has_a_limit(server: Server, inference: Client, tmp_path: Path) -> None:
    code, description = error_of_call(lambda: predict(inference, "endless", str(tmp_path)))
    assert (code, str(description).split(";")[0]) == ("INTERNAL", "The answer is longer than max_response_size")
    eventually((tmp_path / "ended").exists, "the handler was told to end")


# --- messages that are none, or too large ---


def raw_call(client: Client, method: str, data: bytes) -> Callable[[], bytes]:
    path = f"/org.pytorch.serve.grpc.inference.InferenceAPIsService/{method}"
    call = client.channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
    return lambda: call(data, timeout=CALL_DEADLINE_S)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x1a\x05\x0a\x09"])
def test_bytes_that_are_no_message(inference: Client, data: bytes) -> None:
    expected = "The message is no org.pytorch.serve.grpc.inference.PredictionsRequest."
    assert error_of_call(raw_call(inference, "Predictions", data)) == ("INVALID_ARGUMENT", expected)


def test_fields_that_nobody_knows_are_ignored(inference: Client) -> None:
    request = inference.messages.PredictionsRequest(model_name="steps", input={"data": b"0 fine"})
    data = request.SerializeToString() + b"\xf8\x07\x01"  # field 127 as a varint
    answer = inference.messages.PredictionResponse.FromString(raw_call(inference, "Predictions", data)())
    assert answer.prediction == b"fine"


def test_an_unknown_method(inference: Client) -> None:
    assert error_of_call(raw_call(inference, "Predict", b""))[0] == "UNIMPLEMENTED"


def test_a_message_may_be_as_large_as_a_body(inference: Client) -> None:
    request = inference.messages.PredictionsRequest(model_name="seen", input={"data": b""})
    largest = MAX_REQUEST_SIZE - request.ByteSize() - 4  # lengths of the entry and of its value need two bytes more
    data = {"data": bytes(largest)}
    assert inference.messages.PredictionsRequest(model_name="seen", input=data).ByteSize() == MAX_REQUEST_SIZE
    assert inference.call("Predictions", model_name="seen", input=data).prediction
    too_large = {"data": bytes(largest + 1)}
    assert inference.error("Predictions", model_name="seen", input=too_large)[0] == "RESOURCE_EXHAUSTED"


# --- clients that go away ---


def wait_until_pending(server: Server, model: str, count: int) -> None:
    eventually(
        lambda: server.describe(model)[0]["jobQueueStatus"]["pendingRequests"] == count, f"{count} wait for {model}"
    )


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
def test_a_request_that_nobody_waits_for_is_not_run(
    server: Server, inference: Client, tmp_path: Path, how: str
) -> None:
    request = inference.messages.PredictionsRequest
    first = inference.stub.Predictions.future(request(model_name="gated", input={"data": str(tmp_path / "a").encode()}))
    eventually((tmp_path / "began-a").exists, "the first request runs")
    timeout_s = 0.5 if how == "deadline" else CALL_DEADLINE_S
    second = inference.stub.Predictions.future(
        request(model_name="gated", input={"data": str(tmp_path / "b").encode()}), timeout=timeout_s
    )
    wait_until_pending(server, "gated", 1)
    if how == "cancelled":
        second.cancel()
    else:
        assert error_of_call(second.result)[0] == "DEADLINE_EXCEEDED"
    wait_until_pending(server, "gated", 0)
    (tmp_path / "a").touch()
    assert first.result().prediction == b"through"
    (tmp_path / "c").touch()
    assert predict(inference, "gated", str(tmp_path / "c")) == b"through"  # after everything that was sent before
    assert not (tmp_path / "began-b").exists()


def test_a_cancelled_stream_ends_its_handler(inference: Client, tmp_path: Path) -> None:
    answers = inference.call("StreamPredictions", model_name="endless", input={"data": str(tmp_path).encode()})
    assert next(answers).prediction == b"more" * 10_000
    answers.cancel()
    eventually((tmp_path / "ended").exists, "the handler was told to end")


# --- sequences ---


class Conversation:
    """One call of StreamPredictions2: requests are sent one by one, answers read when they are there."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._requests: list[Any] = []
        self._more = threading.Condition()
        self._is_over = False
        self.answers = client.stub.StreamPredictions2(self._sent(), timeout=CALL_DEADLINE_S)

    def _sent(self) -> Iterator[Any]:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._requests or self._is_over)
                if not self._requests:
                    return
                request = self._requests.pop(0)
            yield request

    def send(self, data: str, **fields: str) -> None:
        with self._more:
            input = {"data": data.encode()}
            self._requests.append(self._client.messages.PredictionsRequest(input=input, **fields))
            self._more.notify()

    def ask(self, data: str, **fields: str) -> Any:
        self.send(data, **fields)
        return next(self.answers)

    def end(self) -> None:
        with self._more:
            self._is_over = True
            self._more.notify()


def in_band(answer: Any) -> tuple[int, str, str]:
    """Code, message and reason of an answer that tells an error."""
    from google.rpc.error_details_pb2 import ErrorInfo

    assert answer.prediction == b""
    (detail,) = answer.status.details
    info = ErrorInfo()
    assert detail.Unpack(info)
    return answer.status.code, answer.status.message, info.reason


def test_sequences_are_kept_apart(inference: Client) -> None:
    talk = Conversation(inference)
    answers = {
        (name, number): talk.ask(str(number), model_name="totals", sequence_id=name).prediction
        for number in (1, 2, 3)
        for name in ("a", "b")
    }
    talk.end()
    assert [answers["a", number] for number in (1, 2, 3)] == [b"1", b"3", b"6"]
    assert [answers["b", number] for number in (1, 2, 3)] == [b"1", b"3", b"6"]
    assert list(talk.answers) == []


def test_pending_answers_come_after_the_client_has_ended_its_side(inference: Client) -> None:
    request = inference.messages.PredictionsRequest
    requests = [request(model_name="totals", sequence_id="c", input={"data": b"1"}) for _ in range(8)]
    answers = inference.stub.StreamPredictions2(iter(requests), timeout=CALL_DEADLINE_S)
    assert [answer.prediction for answer in answers] == [str(total).encode() for total in range(1, 9)]


def test_errors_come_in_the_stream_and_do_not_end_it(inference: Client) -> None:
    talk = Conversation(inference)
    version = "org.pytorch.serve.archive.model.ModelVersionNotFoundException"
    expected = [
        ({"model_name": "totals"}, (13, "Parameter sequenceId is required.", "BadRequestException.()")),
        ({"sequence_id": "d"}, (13, "Parameter model_name is required.", "BadRequestException.()")),
        (
            {"model_name": "totals", "model_version": "7", "sequence_id": "d"},
            (13, "Model version: 7 does not exist for model: totals", version),
        ),
        (
            {"model_name": "raises", "sequence_id": "d"},
            (5, "gone", "org.pytorch.serve.http.InternalServerException"),
        ),
    ]
    for fields, error in expected:
        assert in_band(talk.ask("404 gone", **fields)) == error
    assert talk.ask("4", model_name="totals", sequence_id="d").prediction == b"4"
    talk.end()
    assert list(talk.answers) == []


def test_a_stream_of_no_requests(inference: Client) -> None:
    assert list(inference.stub.StreamPredictions2(iter([]), timeout=CALL_DEADLINE_S)) == []


def test_bytes_that_are_no_message_end_the_stream(inference: Client) -> None:
    call = inference.channel.stream_stream(
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/StreamPredictions2",
        request_serializer=bytes,
        response_deserializer=bytes,
    )
    assert error_of_call(lambda: call(iter([b"\xff"]), timeout=CALL_DEADLINE_S))[0] == "INVALID_ARGUMENT"


# --- management ---


def test_list_has_pages_and_its_default_limit_is_none(management: Client) -> None:
    assert json.loads(management.call("ListModels").msg) == {"nextPageToken": "0", "models": []}
    page = json.loads(management.call("ListModels", limit=2, next_page_token=1).msg)
    assert page["nextPageToken"] == "3"
    assert [model["modelName"] for model in page["models"]] == ["endless", "gated"]
    everything = json.loads(management.call("ListModels", limit=-1, next_page_token=-1).msg)
    assert [model["modelName"] for model in everything["models"]][:2] == ["double", "endless"]


def test_describe_is_what_rest_says(server: Server, management: Client) -> None:
    description = management.call("DescribeModel", model_name="seen").msg
    assert json.loads(description)[0] | {"workers": []} == server.describe("seen")[0] | {"workers": []}
    assert description.startswith('[\n  {\n    "modelName": "seen",\n')


def test_register_scale_default_and_unregister(server: Server, management: Client) -> None:
    numbers = {"batch_size": 2, "max_batch_delay": 7, "response_timeout": 9, "startup_timeout": 60}
    text = management.call(
        "RegisterModel", url="spare.mar", model_name="m", initial_workers=1, synchronous=True, **numbers
    )
    assert text.msg == 'Model "m" Version: 1.0 registered with 1 initial workers'
    settings = server.describe("m")[0]
    keys = ("batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout", "minWorkers")
    assert [settings[key] for key in keys] == [2, 7, 9, 60, 1]
    second = management.call("RegisterModel", url="spare_2.mar", model_name="m", initial_workers=1).msg
    assert second == "Processing worker updates..."
    scaled = management.call("ScaleWorker", model_name="m", model_version="2.0", min_worker=2, synchronous=True)
    assert scaled.msg == "Workers scaled to 2 for model: m, version: 2.0"
    assert management.call("ScaleWorker", model_name="m", min_worker=-1).msg == "Processing worker updates..."
    default = management.call("SetDefault", model_name="m", model_version="2.0").msg
    assert default == 'Default version successfully updated for model "m" to "2.0"'
    assert management.error("UnregisterModel", model_name="m", model_version="2.0") == (
        "UNKNOWN",
        "Cannot remove default version for model m\norg.pytorch.serve.archive.model.InvalidModelVersionException",
    )
    for version in ("1.0", "2.0"):
        assert management.call("UnregisterModel", model_name="m", model_version=version).msg == 'Model "m" unregistered'


MODEL_NOT_FOUND = "org.pytorch.serve.archive.model.ModelNotFoundException"
BAD_REQUEST = "org.pytorch.serve.http.BadRequestException"


@pytest.mark.parametrize(
    ("method", "fields", "code", "begins", "exception"),
    [
        ("DescribeModel", {"model_name": "x"}, "NOT_FOUND", "Model not found: x", MODEL_NOT_FOUND),
        ("DescribeModel", {}, "NOT_FOUND", "Model not found: ", MODEL_NOT_FOUND),
        ("DescribeModel", {"model_name": "x", "customized": True}, "INTERNAL", "Model not found: x", MODEL_NOT_FOUND),
        ("RegisterModel", {}, "INVALID_ARGUMENT", "Parameter url is required.", BAD_REQUEST),
        ("RegisterModel", {"url": "no.mar"}, "NOT_FOUND", "Model not found at: no.mar", MODEL_NOT_FOUND),
        ("RegisterModel", {"url": "../x"}, "NOT_FOUND", "Relative path is not allowed in url: ../x", MODEL_NOT_FOUND),
        (
            "RegisterModel",
            {"url": "spare.mar", "runtime": "python4"},
            "INVALID_ARGUMENT",
            "Invalid RuntimeType value: python4",
            BAD_REQUEST,
        ),
        (
            "RegisterModel",
            {"url": "seen.mar"},
            "UNKNOWN",
            "Model version 1.0 is already registered for model seen",
            "org.pytorch.serve.http.ConflictStatusException",
        ),
        (
            "RegisterModel",
            {"url": "broken.mar", "initial_workers": 1, "synchronous": True},
            "INTERNAL",
            "Failed to start workers for model broken version: 1.0",
            "org.pytorch.serve.http.InternalServerException",
        ),
        ("ScaleWorker", {}, "INVALID_ARGUMENT", "Parameter model_name is required.", BAD_REQUEST),
        ("ScaleWorker", {"model_name": "x"}, "NOT_FOUND", "Model not found: x", MODEL_NOT_FOUND),
        (
            "ScaleWorker",
            {"model_name": "seen", "min_worker": 2, "max_worker": 1},
            "INVALID_ARGUMENT",
            "max_worker cannot be less than min_worker.",
            BAD_REQUEST,
        ),
        (
            "SetDefault",
            {"model_name": "seen", "model_version": "9"},
            "NOT_FOUND",
            "Model version 9 does not exist for model seen",
            "org.pytorch.serve.archive.model.ModelVersionNotFoundException",
        ),
        ("UnregisterModel", {"model_name": "x"}, "NOT_FOUND", "Model not found: x", MODEL_NOT_FOUND),
        ("UnregisterModel", {}, "INVALID_ARGUMENT", "Parameter model_name is required.", BAD_REQUEST),
    ],
)
def test_errors_of_management(
    management: Client, method: str, fields: dict[str, Any], code: str, begins: str, exception: str
) -> None:
    found_code, description = management.error(method, **fields)
    message, _, found_exception = str(description).rpartition("\n")
    assert (found_code, found_exception) == (code, exception)
    assert message.startswith(begins)


# --- access log ---


@pytest.mark.parametrize(
    ("model", "code"), [("seen", 0), ("nobody", 13)], ids=["a call that is answered", "a call that fails"]
)
def test_every_call_is_a_line_of_the_access_log(server: Server, inference: Client, model: str, code: int) -> None:
    log = server.folder / "logs" / "access_log.log"
    line = re.compile(
        r'/127\.0\.0\.1:\d+ "gRPC org\.pytorch\.serve\.grpc\.inference\.InferenceAPIsService/Predictions HTTP/2\.0" '
        rf"{code} \d+$",
        re.MULTILINE,
    )
    before = len(line.findall(log.read_text()))
    inference.stub.Predictions.future(inference.messages.PredictionsRequest(model_name=model)).exception()
    eventually(lambda: len(line.findall(log.read_text())) == before + 1, "the line is written")


# --- health ---


@pytest.fixture
def health(server: Server) -> Iterator[Any]:
    from grpc_health.v1 import health_pb2_grpc

    with grpc.insecure_channel(str(server.grpc_management)) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def health_request(name: str) -> Any:
    from grpc_health.v1 import health_pb2

    return health_pb2.HealthCheckRequest(service=name)


SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@pytest.mark.parametrize("name", ["", "seen"])
def test_who_serves(health: Any, name: str) -> None:
    assert health.Check(health_request(name), timeout=CALL_DEADLINE_S).status == SERVING


def test_the_health_of_a_stranger(health: Any) -> None:
    call = lambda: health.Check(health_request("nobody"), timeout=CALL_DEADLINE_S)  # noqa: E731
    assert error_of_call(call) == ("NOT_FOUND", "Model not found: nobody")


def test_a_watched_model_comes_and_goes(health: Any, management: Client, server: Server) -> None:
    states = health.Watch(health_request("watched"), timeout=CALL_DEADLINE_S)
    assert next(states).status == SERVICE_UNKNOWN
    management.call("RegisterModel", url="spare.mar", model_name="watched", initial_workers=1, synchronous=True)
    while (state := next(states).status) == NOT_SERVING:
        pass
    assert state == SERVING
    assert server.manage("PUT", "models/watched?min_worker=0&max_worker=0&synchronous=true").status_code == 200
    assert next(states).status == NOT_SERVING
    management.call("UnregisterModel", model_name="watched")
    assert next(states).status == SERVICE_UNKNOWN
    states.cancel()


# --- Open Inference ---


def test_open_inference_says_who_is_there(open_inference: Client) -> None:
    assert open_inference.call("ServerLive").live
    assert open_inference.call("ServerReady").ready
    assert open_inference.call("ModelReady", name="double").ready
    metadata = open_inference.call("ModelMetadata", name="double")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("double", ["1.0"], "")
    assert open_inference.error("ServerMetadata")[0] == "UNIMPLEMENTED"


def test_open_inference_infers(open_inference: Client) -> None:
    tensor, contents = open_inference.messages.ModelInferRequest.InferInputTensor, "InferTensorContents"
    make = getattr(open_inference.messages, contents)
    inputs = [
        tensor(name="floats", datatype="FP32", shape=[1, 2], contents=make(fp32_contents=[1.5, -2])),
        tensor(name="integers", datatype="INT64", shape=[1], contents=make(int64_contents=[2**40])),
        tensor(name="texts", datatype="BYTES", shape=[1], contents=make(bytes_contents=["grün".encode()])),
    ]
    answer = open_inference.call("ModelInfer", model_name="double", id="mine", inputs=inputs)
    assert (answer.model_name, answer.model_version, answer.id) == ("double", "1.0", "mine")
    assert [(output.name, list(output.shape)) for output in answer.outputs] == [
        ("floats", [1, 2]),
        ("integers", [1]),
        ("texts", [1]),
    ]
    floats, integers, texts = (output.contents for output in answer.outputs)
    assert list(floats.fp32_contents) == [3.0, -4.0]
    assert list(integers.int64_contents) == [2**41]
    assert list(texts.bytes_contents) == ["grün".encode()]


@pytest.mark.parametrize(
    ("method", "fields", "code", "description"),
    [
        ("ModelReady", {}, "INTERNAL", "Parameter name is required.\nBadRequestException.()"),
        ("ModelReady", {"name": "x"}, "NOT_FOUND", f"Model not found: x\n{MODEL_NOT_FOUND}"),
        ("ModelMetadata", {"name": "x"}, "NOT_FOUND", f"Model not found: x\n{MODEL_NOT_FOUND}"),
        ("ModelInfer", {}, "INTERNAL", "Parameter model_name is required.\nBadRequestException.()"),
        ("ModelInfer", {"model_name": "x"}, "INTERNAL", f"Model not found: x\n{MODEL_NOT_FOUND}"),
        (
            "ModelInfer",
            {"model_name": "double", "raw_input_contents": [b"\0\0\0\0"]},
            "INTERNAL",
            "raw_input_contents are not supported: give each input its contents.\nBadRequestException.()",
        ),
    ],
)
def test_errors_of_open_inference(
    open_inference: Client, method: str, fields: dict[str, Any], code: str, description: str
) -> None:
    assert open_inference.error(method, **fields) == (code, description)


@pytest.mark.parametrize("model", ["seen", "steps"])
def test_a_result_that_is_no_open_inference_response(open_inference: Client, model: str) -> None:
    code, _ = open_inference.error("ModelInfer", model_name=model)
    assert code in ("INTERNAL", "UNAVAILABLE")


@pytest.mark.parametrize(
    ("path", "status", "document"),
    [
        ("v2/health/live", 200, {"live": True}),
        ("v2/health/ready", 200, {"ready": True}),
        ("v2/models/double/versions/1.0/infer", 501, {"error": "Model versioning is not yet supported."}),
    ],
)
def test_open_inference_over_http(server: Server, path: str, status: int, document: dict[str, Any]) -> None:
    answer = server.infer("GET", path)
    assert (answer.status_code, answer.json()) == (status, document)


def test_open_inference_names_the_server(server: Server) -> None:
    document = server.infer("GET", "v2").json()
    assert (document["name"], document["extenstion"]) == ("Torchserve", ["kserve", "kubeflow"])
