"""Every message through encode, bytes, decode; and everything that is no message."""

import dataclasses
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.wire import messages
from model_server.wire.frames import Frame, FrameDecoder, WireError
from model_server.wire.messages import (
    Call,
    CallResult,
    Cancel,
    Capabilities,
    Chunk,
    Credit,
    Failure,
    ItemResult,
    Load,
    Loaded,
    Message,
    Part,
    Predict,
    PredictItem,
    RequestKind,
    Result,
    ServingMode,
    Started,
    Stop,
    decode,
    encode,
)

# Any text a header, a name or an error may hold: non-ASCII, and bytes that were no UTF-8 (surrogate-escaped).
texts = st.text(max_size=20) | st.binary(max_size=20).map(lambda data: data.decode(errors="surrogateescape"))
headers = st.lists(st.tuples(texts, texts), max_size=4)
blobs = st.binary(max_size=100)
numbers = st.integers(0, 2**53)
statuses = st.integers(100, 999)
parts = st.lists(st.builds(Part, texts, blobs, texts), max_size=4)

EVERY_MESSAGE: dict[type[Message], st.SearchStrategy[Message]] = {
    Load: st.builds(
        Load,
        model_name=texts,
        model_dir=texts,
        handler=texts,
        batch_size=st.integers(1, 10**6),
        gpu_id=st.none() | st.integers(0, 15),
        envelope=st.none() | texts,
        limit_max_image_pixels=st.booleans(),
        mode=st.sampled_from(get_args(ServingMode)),
        decode_input_request=st.booleans(),
        retry_on_error=st.booleans(),
        max_response_size_bytes=numbers,
    ),
    Predict: st.builds(
        Predict,
        numbers,
        st.sampled_from(get_args(RequestKind)),
        st.lists(st.builds(PredictItem, texts, headers, parts, st.integers(1, 512)), max_size=5),
        st.none() | st.floats(0, 1e6),
    ),
    Cancel: st.builds(Cancel, numbers, numbers),
    CallResult: st.builds(CallResult, numbers, statuses, headers, blobs),
    Credit: st.builds(Credit, numbers, numbers, numbers),
    Stop: st.builds(Stop),
    Loaded: st.builds(
        Loaded,
        st.builds(
            Capabilities,
            st.booleans(),
            st.booleans(),
            st.booleans(),
            st.lists(st.dictionaries(texts, texts | st.lists(numbers)), max_size=2),
            st.lists(st.dictionaries(texts, texts | st.lists(numbers)), max_size=2),
        ),
    ),
    Failure: st.builds(Failure, statuses, texts, texts),
    Started: st.builds(Started, numbers),
    Chunk: st.builds(Chunk, numbers, numbers, statuses, texts, headers, blobs),
    Result: st.builds(
        Result,
        numbers,
        st.lists(st.builds(ItemResult, texts, statuses, texts, headers, blobs, st.none() | texts), max_size=5),
        st.none() | st.floats(0, 1e6),
        st.lists(st.tuples(texts, st.floats(allow_nan=False), texts, texts, headers, texts), max_size=4),
    ),
    Call: st.builds(Call, numbers, texts, texts, st.none() | texts, parts),
}


def over_the_wire(message: Message) -> Message:
    (frame,) = FrameDecoder().feed(b"".join(encode(message)))
    return decode(frame)


def comparable(message: Message) -> Any:
    """JSON has no tuples: where the receiver gets lists for them is not part of the contract."""
    return json.loads(json.dumps(dataclasses.asdict(message), default=bytes.hex))  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", EVERY_MESSAGE, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_round_trip(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(EVERY_MESSAGE[kind])
    received = over_the_wire(message)
    assert type(received) is kind
    assert comparable(received) == comparable(message)


def test_every_message_of_the_module_is_tried_above() -> None:
    defined = {cls for cls in vars(messages).values() if isinstance(cls, type) and issubclass(cls, Message)}
    assert set(EVERY_MESSAGE) == defined - {Message}
    assert len({cls.kind for cls in EVERY_MESSAGE}) == len(EVERY_MESSAGE)


@pytest.mark.parametrize(
    ("message", "kind"),
    [(Load, 1), (Predict, 2), (Cancel, 3), (CallResult, 4), (Credit, 5), (Stop, 6)]
    + [(Loaded, 16), (Failure, 17), (Started, 18), (Chunk, 19), (Result, 20), (Call, 22)],
)
def test_kinds_stay_what_they_are(message: type[Message], kind: int) -> None:
    assert message.kind == kind


def test_headers_and_parts_come_back_with_their_types() -> None:
    item = PredictItem("id", [("Grüße", "ä\udcff"), ("a", "1"), ("a", "2")], [Part("body", b""), Part("x", b"\0\xff")])
    received = over_the_wire(Predict(7, "explain", [item, PredictItem("empty", [], [])], 1.5))
    assert received == Predict(7, "explain", [item, PredictItem("empty", [], [])], 1.5)


def test_a_batch_of_many_empty_parts() -> None:
    items = [PredictItem(str(index), [], [Part("body", b"")] * (index % 4)) for index in range(1000)]
    assert over_the_wire(Predict(1, "predict", items)) == Predict(1, "predict", items)


def test_result_keeps_which_item_failed() -> None:
    items = [ItemResult("a", body=b"1"), ItemResult("b", 503, error="Prediction failed"), ItemResult("c", 201, "Made")]
    assert over_the_wire(Result(3, items)) == Result(3, items)


def test_bodies_are_blobs_not_json() -> None:
    body = b"\xff" * 1000
    buffers = encode(Predict(1, "predict", [PredictItem("a", [], [Part("body", body)])]))
    assert buffers[1] is body
    assert len(buffers[0]) < 100


MALFORMED = {
    "unknown kind": (99, b"{}", []),
    "meta is no JSON": (Stop.kind, b"{", []),
    "meta is no UTF-8": (Started.kind, b'{"batch_id": "\xff"}', []),
    "meta is nested too deeply": (Started.kind, b"[" * 200_000, []),
    "field missing": (Started.kind, b"{}", []),
    "unknown field": (Stop.kind, b'{"now": true}', []),
    "list where a mapping belongs": (Started.kind, b"[1]", []),
    "number where a list belongs": (Predict.kind, b"7", []),
    "too few values": (Predict.kind, b'[1, "predict"]', []),
    "null for items": (Predict.kind, b'[1, "predict", null, null]', []),
    "header without value": (Predict.kind, b'[1, "predict", null, [["a", [["key"]], [], 1]]]', []),
    "part without data": (Predict.kind, b'[1, "predict", null, [["a", [], [["body", ""]], 1]]]', []),
    "result without body": (Result.kind, b'[1, [["a", 200, "", [], null]]]', []),
    "result with a body too many": (Result.kind, b"[1, []]", [b"x"]),
    "chunk without data": (Chunk.kind, b'[1, 0, 200, "", []]', []),
    "call result without body": (CallResult.kind, b"[1, 200, []]", []),
    "call without part": (Call.kind, b'[1, "r", "m", null, [["body", ""]]]', []),
    "loaded without capabilities": (Loaded.kind, b"{}", []),
    "capabilities are a number": (Loaded.kind, b'{"capabilities": 3}', []),
    "unknown capability": (Loaded.kind, b'{"capabilities": {"flies": true}}', []),
    "load without a model": (Load.kind, b'{"handler": "h"}', []),
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_message_is_refused(frame: tuple[int, bytes, list[bytes]]) -> None:
    with pytest.raises(WireError):
        decode(Frame(*frame))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(kind=st.sampled_from([cls.kind for cls in EVERY_MESSAGE]), meta=json_values, data=st.lists(blobs, max_size=2))
def test_any_json_is_a_message_or_a_wire_error(kind: int, meta: Any, data: list[bytes]) -> None:
    try:
        decode(Frame(kind, json.dumps(meta).encode(), data))
    except WireError:
        pass
