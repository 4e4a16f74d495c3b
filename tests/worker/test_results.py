"""Values and exceptions of handlers -> answers. Expected values: TorchServe's tables of results and errors."""

import json
from http import HTTPStatus
from typing import Any

import pytest

from handlers.context import RequestProcessor
from handlers.errors import PredictionException
from model_server.wire.messages import ItemResult
from model_server.worker.results import encode_output, error_result, item_result


class Unwritable:
    pass


def result_of(value: Any, processor: RequestProcessor | None = None, max_bytes: int = 1000) -> ItemResult:
    return item_result("id", value, processor or RequestProcessor({}), max_bytes)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (b"\xff\x00", b"\xff\x00"),
        (bytearray(b"abc"), b"abc"),
        ("Grüße", "Grüße".encode()),
        ("", b""),
        (None, b"null"),
        (0, b"0"),
        (1.5, b"1.5"),
        (True, b"true"),
        (float("nan"), b"NaN"),
        (["a", "b"], b'[\n  "a",\n  "b"\n]'),
        ((1, 2), b"[\n  1,\n  2\n]"),
        ({"ä": [1]}, b'{\n  "\\u00e4": [\n    1\n  ]\n}'),
        ({}, b"{}"),
    ],
)
def test_values_are_written_as_torchserve_writes_them(value: Any, body: bytes) -> None:
    assert encode_output(value) == body


def test_tensor_is_saved_by_torch() -> None:
    import io

    import torch

    tensor = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(torch.load(io.BytesIO(encode_output(tensor)), weights_only=True), tensor)


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Unwritable(), "Unwritable"),
        ({1, 2}, "set"),
        ({"inside": Unwritable()}, "dict"),
        ({(1, 2): 3}, "dict"),
        (circular(), "list"),
        (nested(), "list"),
        ("\ud800", "str"),
    ],
)
def test_values_that_cannot_be_sent_are_named(value: Any, name: str) -> None:
    answer = result_of(value)
    assert (answer.status, answer.body) == (503, b"")
    assert answer.error == f"Unsupported model output data type. The handler returned a {name}."


def test_answer_may_be_exactly_as_large_as_allowed() -> None:
    assert result_of("x" * 1000).body == b"x" * 1000
    too_large = result_of("x" * 1001)
    assert (too_large.status, too_large.body) == (500, b"")
    assert "1001 bytes" in str(too_large.error) and "max_response_size=1000" in str(too_large.error)


def test_status_reason_and_headers_are_the_handlers() -> None:
    processor = RequestProcessor({})
    processor.report_status(HTTPStatus.CREATED, "Made")
    processor.add_response_property("content-type", "text/plain")
    processor.add_response_property("X-Count", 3)  # type: ignore[arg-type]  # handlers do
    answer = result_of("body", processor)
    assert (answer.status, answer.reason, answer.body, answer.error) == (201, "Made", b"body", None)
    assert answer.headers == [("content-type", "text/plain"), ("X-Count", "3")]


def test_plain_answer_has_no_headers_and_no_reason() -> None:
    assert result_of("body") == ItemResult("id", 200, "", [], b"body", None)


@pytest.mark.parametrize("status", [507, 404, 599, 999])
def test_an_error_status_keeps_the_handlers_body(status: int) -> None:
    processor = RequestProcessor({})
    processor.report_status(status)
    assert result_of("Invalid response", processor) == ItemResult("id", status, body=b"Invalid response")


@pytest.mark.parametrize("status", [0, -1, 99, 199, 1000, "200", 200.0, None, True])
def test_a_status_that_is_none_becomes_500(status: Any, caplog: pytest.LogCaptureFixture) -> None:
    processor = RequestProcessor({})
    processor.report_status(status)
    assert result_of("body", processor).status == 500
    assert repr(status) in caplog.text


@pytest.mark.parametrize(
    ("reason", "sent"), [("Fine\r\nSet-Cookie: a=b", "FineSet-Cookie: a=b"), ("a\tb\0c", "abc"), (None, ""), ("é", "é")]
)
def test_reason_stays_on_its_line(reason: str | None, sent: str) -> None:
    processor = RequestProcessor({})
    processor.report_status(200, reason)
    assert result_of("body", processor).reason == sent


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a b", "1"),
        ("", "1"),
        ("a:", "1"),
        ("é", "1"),
        ("a\r\nb", "1"),
        ("a", "1\r\nSet-Cookie: b=c"),
        ("a", "1\n2"),
        ("a", "1\0"),
        ("a", "\ud800"),
        ("Content-Length", "3"),
        ("transfer-encoding", "chunked"),
        ("Connection", "close"),
    ],
)
def test_headers_that_would_break_the_response_are_dropped(
    key: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    processor = RequestProcessor({})
    processor.add_response_property("before", "x")
    processor.add_response_property(key, value)
    processor.add_response_property("after", "naïve")
    assert result_of("body", processor).headers == [("before", "x"), ("after", "naïve")]
    assert repr(key) in caplog.text


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (PredictionException("too long", 400), 400, "too long"),
        (PredictionException("broken"), 500, "broken"),
        (PredictionException("large", 413), 507, "large"),
        (PredictionException("odd", 599), 599, "odd"),
        (PredictionException({"a": 1}, 422), 422, "{'a': 1}"),  # type: ignore[arg-type]  # handlers do
        (PredictionException("no status", "400"), 500, "no status"),  # type: ignore[arg-type]
        (MemoryError(), 507, "Out of resources"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 507, "Out of resources"),
        (ValueError("text with CUDA in it"), 507, "Out of resources"),
    ],
)
def test_errors_with_a_status_of_their_own(error: BaseException, status: int, text: str) -> None:
    assert error_result("id", error) == ItemResult("id", status, error=text)


@pytest.mark.parametrize("error", [ValueError("/secret/path"), KeyError("x"), RecursionError(), Odd()])
def test_any_other_exception_is_named_but_not_quoted(error: Exception) -> None:
    answer = error_result("id", error)
    assert (answer.status, answer.body) == (503, b"")
    assert str(answer.error).startswith("Prediction failed")
    assert type(error).__name__ in str(answer.error)
    assert "secret" not in str(answer.error)


@pytest.mark.parametrize("error", [SystemExit(1), SystemExit("CUDA"), KeyboardInterrupt(), GeneratorExit()])
def test_an_attempt_to_end_the_worker_is_a_500(error: BaseException) -> None:
    answer = error_result("id", error)
    assert answer.status == 500
    assert type(error).__name__ in str(answer.error)


def test_errors_can_be_written_into_a_json_body() -> None:
    answer = error_result("id", PredictionException("bytes \udcff", 400))
    assert json.loads(json.dumps(answer.error)) == "bytes \udcff"
