"""The closed set of messages between frontend and worker.

To a worker:   Load · Predict · Cancel · CallResult · Credit · Stop
From a worker: Loaded · Failure · Started · Chunk · Result · Call

A message is a dataclass; `encode` gives the buffers of its frame, `decode` the message of a frame. What is binary
travels as blobs, everything else as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self

from model_server.wire.frames import Buffer, Frame, WireError, encode_frame

RequestKind = Literal["predict", "explain", "describe"]
ServingMode = Literal["batch", "continuous", "async"]
Headers = list[tuple[str, str]]
# What a handler has recorded: (name, value, unit, type, dimensions, request id).
Sample = tuple[str, float, str, str, list[tuple[str, str]], str]

# How much of a streamed answer may be on its way to its client. A plain handler that streams faster waits at this mark.
STREAM_WINDOW_BYTES = 1 << 20
# Small parts cost time, not room. With this share of the window for each, a stream of them as fast as its worker can
# make them pauses the event loop for about 5 ms; with a share of their size alone it was 16 ms for every stream.
_LEAST_SHARE_BYTES = 1 << 13


def window_share(part: Buffer) -> int:
    """What a part of a streamed answer takes of its window, in bytes."""
    return max(len(part), _LEAST_SHARE_BYTES)


@dataclass(slots=True)
class Part:
    """One named value of a request: a body, a form field, a file, a query parameter, a tensor.

    Attributes:
        content_type: media type that decides how the worker decodes `data`; "" leaves it raw.
    """

    name: str
    data: Buffer
    content_type: str = ""


class Message:
    """A message without binary parts: its fields are its JSON document."""

    kind: ClassVar[int]
    __slots__ = ()

    def pack(self) -> tuple[Any, Sequence[Buffer]]:
        return asdict(self), ()  # type: ignore[call-overload]  # every subclass is a dataclass

    @classmethod
    def unpack(cls, meta: Any, blobs: Sequence[Buffer]) -> Self:
        return cls(**meta)


# --- to a worker ---


@dataclass(slots=True)
class Load(Message):
    """First message of a worker's life: which model it serves and how.

    Attributes:
        handler: entry point, `module[.py][:function]` or the name of a built-in handler.
        gpu_id: index within the devices this worker sees; None for CPU.
        mode: `batch`: one batch after the other; `continuous`: a set of requests that is stepped until each is done,
            new ones joining between steps; `async`: requests as they come, `handle` being a coroutine.
        retry_on_error: run the members of a batch one by one after the handler raised on all of them.
    """

    kind: ClassVar[int] = 1
    model_name: str
    model_dir: str
    handler: str
    batch_size: int
    gpu_id: int | None = None
    mode: ServingMode = "batch"
    envelope: str | None = None
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    retry_on_error: bool = True
    max_response_size_bytes: int = 6_553_500


@dataclass(slots=True)
class PredictItem:
    """One request of a batch.

    Attributes:
        elements: how many elements of a batched protocol request this is (Open Inference); 1 otherwise.
    """

    id: str
    headers: Headers
    parts: list[Part]
    elements: int = 1


@dataclass(slots=True)
class Predict(Message):
    """A batch of requests of one kind.

    Attributes:
        deadline_s: seconds left until nobody waits for the answers any more; None without a deadline.
    """

    kind: ClassVar[int] = 2
    batch_id: int
    request_kind: RequestKind
    items: list[PredictItem]
    deadline_s: float | None = None

    def pack(self) -> tuple[Any, Sequence[Buffer]]:
        blobs: list[Buffer] = []
        rows = []
        for item in self.items:
            rows.append((item.id, item.headers, [(part.name, part.content_type) for part in item.parts], item.elements))
            blobs.extend(part.data for part in item.parts)
        return (self.batch_id, self.request_kind, self.deadline_s, rows), blobs

    @classmethod
    def unpack(cls, meta: Any, blobs: Sequence[Buffer]) -> Self:
        batch_id, request_kind, deadline_s, rows = meta
        data = iter(blobs)
        items = [
            PredictItem(
                id,
                [(key, value) for key, value in headers],
                [Part(name, next(data), content_type) for name, content_type in parts],
                elements,
            )
            for id, headers, parts, elements in rows
        ]
        return cls(batch_id, request_kind, items, deadline_s)


@dataclass(slots=True)
class Cancel(Message):
    """Nobody waits for this member of a batch any more."""

    kind: ClassVar[int] = 3
    batch_id: int
    index: int


@dataclass(slots=True)
class CallResult(Message):
    """Answer to a `Call`: what another model said."""

    kind: ClassVar[int] = 4
    call_id: int
    status: int
    headers: Headers
    body: Buffer

    def pack(self) -> tuple[Any, Sequence[Buffer]]:
        return (self.call_id, self.status, self.headers), (self.body,)

    @classmethod
    def unpack(cls, meta: Any, blobs: Sequence[Buffer]) -> Self:
        call_id, status, headers = meta
        return cls(call_id, status, [(key, value) for key, value in headers], blobs[0])


@dataclass(slots=True)
class Credit(Message):
    """A client took this much of what was streamed to it, by `window_share`: the worker may send as much again."""

    kind: ClassVar[int] = 5
    batch_id: int
    index: int
    size_bytes: int


@dataclass(slots=True)
class Stop(Message):
    """Finish what was sent before this, then exit."""

    kind: ClassVar[int] = 6


# --- from a worker ---


@dataclass(slots=True)
class Capabilities:
    """What a handler can do.

    Attributes:
        length_batching: requests of similar body length are better batched together.
        batch_explanations: explanations may be batched.
        streams: answers may come in chunks.
        inputs, outputs: declared tensors (Open Inference metadata), one mapping each with name, datatype and shape.
    """

    length_batching: bool = False
    batch_explanations: bool = False
    streams: bool = False
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Loaded(Message):
    kind: ClassVar[int] = 16
    capabilities: Capabilities

    @classmethod
    def unpack(cls, meta: Any, blobs: Sequence[Buffer]) -> Self:
        return cls(Capabilities(**meta["capabilities"]))


@dataclass(slots=True)
class Failure(Message):
    """The model could not be loaded; the worker exits after it.

    Attributes:
        message: the cause in one line, for whoever registered the model.
        detail: the traceback, for the log.
    """

    kind: ClassVar[int] = 17
    status: int
    message: str
    detail: str


@dataclass(slots=True)
class Started(Message):
    """The worker has begun with this batch: from here on its death counts against the batch.

    Not said in the mode "batch", where a batch begins when it is there and the one before it is answered: a message
    less for every request.
    """

    kind: ClassVar[int] = 18
    batch_id: int


@dataclass(slots=True)
class Chunk(Message):
    """One part of the answer to a member of a batch; the `Result` holds the last one.

    Status, reason and headers reach the client with the first part only.
    """

    kind: ClassVar[int] = 19
    batch_id: int
    index: int
    status: int
    reason: str
    headers: Headers
    data: Buffer

    def pack(self) -> tuple[Any, Sequence[Buffer]]:
        return (self.batch_id, self.index, self.status, self.reason, self.headers), (self.data,)

    @classmethod
    def unpack(cls, meta: Any, blobs: Sequence[Buffer]) -> Self:
        batch_id, index, status, reason, headers = meta
        return cls(batch_id, index, status, reason, [(key, value) for key, value in headers], blobs[0])


@dataclass(slots=True)
class ItemResult:
    """Answer to one request.

    Attributes:
        reason: reason phrase of the status line, "" unless the handler gave one.
        error: text of an error decided by the worker; then `body` is empty and the frontend writes the error body.
    """

    id: str
    status: int = 200
    reason: str = ""
    headers: Headers = field(default_factory=list)
    body: Buffer = b""
    error: str | None = None


@dataclass(slots=True)
class Result(Message):
    """Answers to all requests of a batch, in its order.

    Attributes:
        service_s: how long the worker took; None where `Started` tells it.
        samples: what the handler has recorded since the last result.
    """

    kind: ClassVar[int] = 20
    batch_id: int
    items: list[ItemResult]
    service_s: float | None = None
    samples: list[Sample] = field(default_factory=list)

    def pack(self) -> tuple[Any, Sequence[Buffer]]:
        rows = [(item.id, item.status, item.reason, item.headers, item.error) for item in self.items]
        return (self.batch_id, rows, self.service_s, self.samples), [item.body for item in self.items]

    @classmethod
    def unpack(cls, meta: Any, blobs: Sequence[Buffer]) -> Self:
        batch_id, rows, service_s, samples = meta
        items = [
            ItemResult(id, status, reason, [(key, value) for key, value in headers], body, error)
            for (id, status, reason, headers, error), body in zip(rows, blobs, strict=True)
        ]
        return cls(batch_id, items, service_s, samples)


@dataclass(slots=True)
class Call(Message):
    """A handler asks for another model's answer while it serves `request_id`."""

    kind: ClassVar[int] = 22
    call_id: int
    request_id: str
    model_name: str
    model_version: str | None
    parts: list[Part]

    def pack(self) -> tuple[Any, Sequence[Buffer]]:
        names = [(part.name, part.content_type) for part in self.parts]
        meta = (self.call_id, self.request_id, self.model_name, self.model_version, names)
        return meta, [part.data for part in self.parts]

    @classmethod
    def unpack(cls, meta: Any, blobs: Sequence[Buffer]) -> Self:
        call_id, request_id, model_name, model_version, names = meta
        parts = [Part(name, data, content_type) for (name, content_type), data in zip(names, blobs, strict=True)]
        return cls(call_id, request_id, model_name, model_version, parts)


_MESSAGES: dict[int, type[Message]] = {
    message.kind: message
    for message in (
        Load, Predict, Cancel, CallResult, Credit, Stop, Loaded, Failure, Started, Chunk, Result, Call,
    )
}  # fmt: skip


# Made once: `json.dumps` makes an encoder for every call that is not the usual one, `json.loads` looks at an encoding.
_encode_json = json.JSONEncoder(separators=(",", ":")).encode
_decode_json = json.JSONDecoder().decode


def encode(message: Message) -> list[Buffer]:
    """Buffers to write, in order."""
    meta, blobs = message.pack()
    return encode_frame(message.kind, _encode_json(meta).encode(), blobs)


def decode(frame: Frame) -> Message:
    """Raises `WireError` for anything that is not one of our messages."""
    message = _MESSAGES.get(frame.kind)
    if message is None:
        raise WireError(f"unknown message kind {frame.kind}")
    try:
        return message.unpack(_decode_json(frame.meta.decode()), frame.blobs)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, StopIteration, RecursionError) as error:
        raise WireError(f"malformed {message.__name__}: {error}") from error
