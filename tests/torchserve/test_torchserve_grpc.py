"""The same gRPC calls to TorchServe and ours, by clients generated from one set of protos."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import pytest
from grpc_clients import CALL_DEADLINE_S, Client
from pairs import Endpoints, Pair
from servers import together

# Code and payload: of a call that is answered, messages as text; of one that is not, the description.
Outcome: TypeAlias = tuple[str, Any]

OK = "OK"


@dataclass(frozen=True, slots=True)
class Clients:
    inference: Client
    management: Client


@dataclass(frozen=True, slots=True)
class Both:
    theirs: Clients
    ours: Clients

    def ask(self, call: Callable[[Clients], Any]) -> tuple[Outcome, Outcome]:
        theirs, ours = together(lambda: outcome(call, self.theirs), lambda: outcome(call, self.ours))
        return theirs, ours


def outcome(call: Callable[[Clients], Any], clients: Clients) -> Outcome:
    try:
        return OK, call(clients)
    except grpc.RpcError as error:
        return error.code().name, error.details()


def check(theirs: Outcome, ours: Outcome) -> None:
    """Equal, but for what our errors say after TorchServe's text."""
    if theirs[0] == OK:
        assert ours == theirs
        return
    their_text, _, their_class = str(theirs[1]).rpartition("\n")
    our_text, _, our_class = str(ours[1]).rpartition("\n")
    assert (ours[0], our_class) == (theirs[0], their_class)
    assert our_text.startswith(their_text)


@pytest.fixture(scope="module")
def both(pair: Pair) -> Iterator[Both]:
    def clients(server: Endpoints) -> Clients:
        return Clients(Client(server.grpc_inference, "inference"), Client(server.grpc_management, "management"))

    each = Both(clients(pair.theirs), clients(pair.ours))
    for archive in ("steps.mar", "totals.mar"):
        registered = each.ask(
            lambda it, archive=archive: (
                it.management.call("RegisterModel", url=archive, initial_workers=1, synchronous=True).msg
            )
        )
        assert registered[0][0] == OK
        check(*registered)
    yield each
    for name in ("steps", "totals"):
        each.ask(lambda it, name=name: it.management.call("UnregisterModel", model_name=name).msg)
    for client in (each.theirs.inference, each.theirs.management, each.ours.inference, each.ours.management):
        client.channel.close()


def predict(model: str, input: Mapping[str, bytes], **fields: str) -> Callable[[Clients], bytes]:
    return lambda it: bytes(it.inference.call("Predictions", model_name=model, input=input, **fields).prediction)


def stream(model: str, data: bytes) -> Callable[[Clients], list[bytes]]:
    def call(it: Clients) -> list[bytes]:
        answers = it.inference.call("StreamPredictions", model_name=model, input={"data": data})
        return [answer.prediction for answer in answers]

    return call


def manage(method: str, **fields: Any) -> Callable[[Clients], str]:
    return lambda it: str(it.management.call(method, **fields).msg)


def in_sequences(*requests: Mapping[str, Any]) -> Callable[[Clients], list[str]]:
    """One call; TorchServe forgets what is pending when the client ends its side, so each waits for its answer."""

    def call(it: Clients) -> list[str]:
        received: list[str] = []

        def sent() -> Iterator[Any]:
            for number, request in enumerate(requests):
                yield it.inference.messages.PredictionsRequest(**request)
                end_s = time.monotonic() + 5
                while len(received) <= number and time.monotonic() < end_s:
                    time.sleep(0.01)

        for answer in it.inference.stub.StreamPredictions2(sent(), timeout=CALL_DEADLINE_S):
            received.append(str(answer))
        return received

    return call


# --- inference ---


def test_ping(both: Both) -> None:
    check(*both.ask(lambda it: it.inference.call("Ping").health))


def test_what_the_handler_sees(both: Both) -> None:
    def seen(it: Clients) -> Any:
        document = json.loads(predict("mirror", {"data": b"\x00\xff", "other": b"text"})(it))
        return {key: document[key] for key in ("parts", "headers", "version", "Content-Type")}

    check(*both.ask(seen))


@pytest.mark.parametrize("fields", [{}, {"model_version": "1.0"}, {"model_version": "2.0"}, {"sequence_id": "s"}])
def test_versions(both: Both, fields: dict[str, str]) -> None:
    def version(it: Clients) -> Any:
        return json.loads(predict("mirror", {"data": b"x"}, **fields)(it))["version"]

    check(*both.ask(version))


ANSWERS = [
    "text",
    "empty text",
    "bytes",
    "bytearray",
    "dict",
    "list",
    "integer",
    "float",
    "none",
    "nan",
    "status 404",
    "status 599",
    "header",
    "content type",
    "array",
    "set",
    "two results",
    "no result",
    "a dict",
    "nothing",
    "ValueError",
    "MemoryError",
    "CUDA",
    "PredictionException",
    "PredictionException 404",
    "PredictionException 418",
    "PredictionException 429",
    "PredictionException 503",
    "PredictionException 599",
    "PredictionException without text",
    "PredictionException with an umlaut",
]


@pytest.mark.parametrize("action", ANSWERS)
def test_results_and_errors_of_handlers(both: Both, action: str) -> None:
    check(*both.ask(predict("answers", {"body": action.encode()})))


@pytest.mark.parametrize(
    ("model", "fields"), [("", {}), ("nobody", {}), ("mirror", {"model_version": "9"})], ids=["none", "name", "version"]
)
def test_models_that_are_not_there(both: Both, model: str, fields: dict[str, str]) -> None:
    check(*both.ask(predict(model, {"data": b"x"}, **fields)))
    if not fields:
        check(*both.ask(stream(model, b"x")))


@pytest.mark.parametrize("data", [b"3 end", b"1 end", b"2 fail", b"0 fail"])
def test_streams(both: Both, data: bytes) -> None:
    check(*both.ask(stream("steps", data)))


# --- sequences ---


def request(data: str, sequence: str = "", model: str = "totals", **fields: str) -> dict[str, Any]:
    return {"model_name": model, "sequence_id": sequence, "input": {"data": data.encode()}, **fields}


def test_sequences(both: Both) -> None:
    check(*both.ask(in_sequences(*(request(number, name) for number in "123" for name in ("a", "b")))))


@pytest.mark.parametrize(
    "asked", [request("1"), request("1", "c", model_version="7")], ids=["without sequence", "unknown version"]
)
def test_errors_in_the_stream(both: Both, asked: dict[str, Any]) -> None:
    check(*both.ask(in_sequences(asked)))


# --- management ---

MANAGEMENT_CALLS: dict[str, Callable[[Clients], str]] = {
    "no models": manage("ListModels"),
    "one model": manage("ListModels", limit=1),
    "the next one": manage("ListModels", limit=1, next_page_token=1),
    "after the last": manage("ListModels", limit=200, next_page_token=99),
    "describe nobody": manage("DescribeModel", model_name="nobody"),
    "describe without name": manage("DescribeModel"),
    "describe another version": manage("DescribeModel", model_name="mirror", model_version="9"),
    "describe all of nobody": manage("DescribeModel", model_name="nobody", model_version="all"),
    "customized, of nobody": manage("DescribeModel", model_name="nobody", customized=True),
    "customized, another version": manage("DescribeModel", model_name="mirror", model_version="9", customized=True),
    "register nothing": manage("RegisterModel"),
    "register no file": manage("RegisterModel", url="absent.mar"),
    "register from above": manage("RegisterModel", url="../x.mar"),
    "register another runtime": manage("RegisterModel", url="spare.mar", runtime="python4"),
    "scale nobody": manage("ScaleWorker", model_name="nobody"),
    "scale another version": manage("ScaleWorker", model_name="mirror", model_version="9"),
    "scale to less than the least": manage("ScaleWorker", model_name="mirror", min_worker=2, max_worker=1),
    "default of nobody": manage("SetDefault", model_name="nobody", model_version="1.0"),
    "default without version": manage("SetDefault", model_name="mirror"),
    "another default": manage("SetDefault", model_name="mirror", model_version="9"),
    "unregister nobody": manage("UnregisterModel", model_name="nobody"),
    "unregister another version": manage("UnregisterModel", model_name="mirror", model_version="9"),
}


@pytest.mark.parametrize("name", MANAGEMENT_CALLS)
def test_management(both: Both, name: str) -> None:
    check(*both.ask(MANAGEMENT_CALLS[name]))


def test_registering_what_cannot_load(both: Both) -> None:
    """TorchServe keeps the model, unlike after the same request over HTTP; here nothing is left of it."""
    fields = {"url": "broken.mar", "model_name": "broken_by_grpc", "initial_workers": 1, "synchronous": True}
    check(*both.ask(manage("RegisterModel", **fields)))
    theirs, ours = both.ask(manage("UnregisterModel", model_name="broken_by_grpc"))
    assert (theirs[0], ours[0]) == (OK, "NOT_FOUND")


def test_the_life_of_a_model(both: Both) -> None:
    steps = [
        manage("RegisterModel", url="spare.mar", model_name="by_grpc"),
        manage("RegisterModel", url="spare_2.mar", model_name="by_grpc", initial_workers=1, synchronous=True),
        manage("ScaleWorker", model_name="by_grpc", model_version="2.0", min_worker=2, synchronous=True),
        manage("ScaleWorker", model_name="by_grpc", max_worker=1),
        manage("SetDefault", model_name="by_grpc", model_version="2.0"),
        manage("UnregisterModel", model_name="by_grpc", model_version="1.0"),
        manage("UnregisterModel", model_name="by_grpc"),
    ]
    for step in steps:
        theirs, ours = both.ask(step)
        assert theirs[0] == OK
        check(theirs, ours)


# --- where we differ on purpose, with what each of them does ---

DIFFERENCES: dict[str, tuple[Callable[[Clients], Any], Outcome, Outcome]] = {
    "a stream of one message": (
        stream("steps", b"0 whole"),
        ("INTERNAL", "Worker died.\norg.pytorch.serve.http.InternalServerException"),
        (OK, [b"whole"]),
    ),
    "an empty part": (stream("steps", b"1 "), (OK, [b"part 0", b""]), (OK, [b"part 0"])),
    "a stream as one answer": (predict("steps", {"data": b"2 end"}), (OK, b"part 0"), (OK, b"part 0part 1end")),
    "an error that says 200": (
        predict("answers", {"body": b"PredictionException 200"}),
        (OK, b"error"),
        ("UNKNOWN", "fine\norg.pytorch.serve.http.InternalServerException"),
    ),
    "an error that says 413": (
        predict("answers", {"body": b"PredictionException 413"}),
        ("RESOURCE_EXHAUSTED", "too large\norg.pytorch.serve.http.InternalServerException"),
        ("INTERNAL", "too large\norg.pytorch.serve.http.InternalServerException"),
    ),
    "a second registration": (
        manage("RegisterModel", url="mirror.mar"),
        ("UNKNOWN", ""),
        (
            "UNKNOWN",
            "Model version 1.0 is already registered for model mirror\norg.pytorch.serve.http.ConflictStatusException",
        ),
    ),
    "scaling without a name": (
        manage("ScaleWorker"),
        ("UNKNOWN", ""),
        ("INVALID_ARGUMENT", "Parameter model_name is required.\norg.pytorch.serve.http.BadRequestException"),
    ),
    "unregistering without a name": (
        manage("UnregisterModel"),
        ("INVALID_ARGUMENT", "Parameter url is required.\norg.pytorch.serve.http.BadRequestException"),
        ("INVALID_ARGUMENT", "Parameter model_name is required.\norg.pytorch.serve.http.BadRequestException"),
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences(both: Both, name: str) -> None:
    call, theirs, ours = DIFFERENCES[name]
    assert both.ask(call) == (theirs, ours)


def test_a_request_in_a_stream_for_nobody(both: Both) -> None:
    """TorchServe ends the whole stream; here it is told in the stream, like other errors."""
    theirs, ours = both.ask(in_sequences(request("1", "d", "nobody"), request("4", "d")))
    assert theirs == ("UNKNOWN", "")
    assert ours[0] == OK
    refused, answered = ours[1]
    assert 'message: "Model not found: nobody"' in refused
    assert "ModelNotFoundException" in refused
    assert answered == 'prediction: "4"\n'


def test_too_large_a_message(both: Both) -> None:
    theirs, ours = both.ask(predict("mirror", {"data": bytes(6_600_000)}))
    assert theirs[0] == "CANCELLED"
    assert ours[0] == "RESOURCE_EXHAUSTED"
    assert "larger than max" in ours[1]
