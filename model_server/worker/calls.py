"""One call of a handler: requests -> rows and context, results -> answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from handlers.context import Context, RequestProcessor
from handlers.errors import PredictionException, RequestCancelled
from model_server.wire.messages import Chunk, ItemResult, Load, Part, PredictItem, window_share
from model_server.worker.entry_point import EntryPoint
from model_server.worker.failures import shortened, text_of, traceback_of
from model_server.worker.inbox import Inbox
from model_server.worker.outbox import Outbox
from model_server.worker.results import error_result, failed, item_result
from model_server.worker.streams import Streams

log = logging.getLogger(__name__)

# Tells clients of TorchServe that more is to come.
STREAM_NEXT = "ts_stream_next"


class BadHandlerOutput(Exception):
    """The handler returned something other than one result per request; the text is TorchServe's."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What every call of a worker's handler needs.

    Attributes:
        context: the one context of this worker.
    """

    entry: EntryPoint
    context: Context
    load: Load
    inbox: Inbox
    outbox: Outbox
    streams: Streams


@dataclass(slots=True)
class Member:
    """One request of a call. Its answer goes to position `index` of the batch that it came with.

    `is_known`: an earlier call has seen its data (continuous batching); it is not shown again.
    """

    batch_id: int
    index: int
    item: PredictItem
    is_known: bool = False


class Call:
    """Members in the order in which the handler sees them.

    The state here is what the handler sets on the members' processors.
    """

    def __init__(self, worker: Worker, members: list[Member]) -> None:
        self._worker = worker
        self.members = members
        self.processors = [RequestProcessor(_request_headers(member.item)) for member in members]

    def announce(self, context: Context) -> None:
        """Tells the context which requests the next `handle` is about."""
        context.request_ids = {index: member.item.id for index, member in enumerate(self.members)}
        context.request_processor = self.processors
        context.send_chunk = self.send_chunk  # after the ids: who has it can trust them (`handlers.streaming`)
        context.metrics.set_request_ids(context.request_ids)

    def rows(self, *, is_last: bool = False) -> list[dict[str, Any]]:
        """Made anew for every call: the handler may have changed those of the one before.

        Args:
            is_last: nobody needs the data after this call, so large values are handed over instead of copied.
        """
        raw = _handed_over if is_last else _copied
        decode = partial(_decode, raw) if self._worker.load.decode_input_request else raw
        return [
            {} if member.is_known else {part.name: decode(part) for part in member.item.parts}
            for member in self.members
        ]

    def check(self, outputs: Any) -> list[Any]:
        """Raises `BadHandlerOutput` unless there is one result per member."""
        if not isinstance(outputs, list):
            raise BadHandlerOutput(
                f"Invalid model predict output. Expected a list of {len(self.members)}, got {type(outputs).__name__}."
            )
        if len(outputs) != len(self.members):
            raise BadHandlerOutput(
                f"number of batch response mismatched. The handler got {len(self.members)} requests and "
                f"returned {len(outputs)} results."
            )
        return outputs

    def answers(self, outputs: Any) -> list[ItemResult]:
        return [self.answer(index, output) for index, output in enumerate(self.check(outputs))]

    def answer(self, index: int, output: Any) -> ItemResult:
        limit = self._worker.load.max_response_size_bytes
        return item_result(self.members[index].item.id, output, self.processors[index], limit)

    def send_chunk(self, index: int, value: Any) -> None:
        """`context.send_chunk`: a part of one answer, unless its client has gone away.

        Raises:
            PredictionException: the value cannot be sent.
            RequestCancelled: every client of this call has gone away.
        """
        member = self.members[index]
        if not self._is_cancelled(member):
            self._worker.inbox.listen()  # from here on what clients do matters while the handler runs
            self._send(self._chunk(member, index, value))
        if all(map(self._is_cancelled, self.members)):
            raise RequestCancelled("every client of this batch has gone away")

    def _chunk(self, member: Member, index: int, value: Any) -> Chunk:
        self.processors[index].add_response_property(STREAM_NEXT, "true")
        answer = self.answer(index, value)
        if answer.error is not None:
            raise PredictionException(answer.error, answer.status)
        return Chunk(member.batch_id, member.index, answer.status, answer.reason, answer.headers, answer.body)

    def _send(self, chunk: Chunk) -> None:
        # A model that serves many requests at once must not wait for one client.
        waits = self._worker.load.mode == "batch"
        if self._worker.streams.begin(chunk.batch_id, chunk.index, window_share(chunk.data), wait=waits):
            self._worker.outbox.part(chunk)

    def _is_cancelled(self, member: Member) -> bool:
        return self._worker.streams.is_cancelled(member.batch_id, member.index)


def error_answer(member: Member, error: BaseException) -> ItemResult:
    if isinstance(error, BadHandlerOutput):
        return failed(member.item.id, 503, str(error))
    if isinstance(error, RequestCancelled):
        return cancelled_answer(member)
    return error_result(member.item.id, error)


def cancelled_answer(member: Member) -> ItemResult:
    """Ends a request that nobody waits for; 499 is what logs of web servers call it."""
    return failed(member.item.id, 499, "The client has gone away.")


def log_failure(error: BaseException) -> None:
    """To be called while the exception is being handled."""
    if isinstance(error, RequestCancelled):
        log.info("The handler was stopped: %s", error)
    elif isinstance(error, PredictionException) and error.error_code < 500:
        log.info("Request refused with %d: %s", error.error_code, shortened(text_of(error.message)))
    else:
        log.error("%s", traceback_of(error))


def _request_headers(item: PredictItem) -> dict[str, Any]:
    """One dict as handlers expect it: parts by name, then the HTTP headers as the client spelled them."""
    headers: dict[str, Any] = {part.name: {"content-type": part.content_type} for part in item.parts}
    headers.update(item.headers)
    return headers


def _copied(part: Part) -> bytearray:
    return bytearray(part.data)


def _handed_over(part: Part) -> bytearray:
    return part.data if isinstance(part.data, bytearray) else bytearray(part.data)


def _decode(raw: Callable[[Part], bytearray], part: Part) -> Any:
    """JSON -> parsed, text -> str, the rest -> bytearray; what does not decode stays a bytearray."""
    media_type = part.content_type.partition(";")[0].strip()
    try:
        if media_type == "application/json":
            return json.loads(part.data if isinstance(part.data, bytes) else bytes(part.data))
        if media_type.startswith("text"):
            return str(part.data, "utf-8")
    except (ValueError, RecursionError) as error:
        log.warning("A %s body could not be decoded and is passed on as bytes: %s", media_type, error)
    return raw(part)
