"""One batch: wire parts -> rows -> the handler -> answers."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

from handlers.context import Context, RequestProcessor
from handlers.errors import PredictionException
from model_server.wire.messages import Capabilities, ItemResult, Load, Part, Predict, PredictItem, Result
from model_server.worker.entry_point import EntryPoint
from model_server.worker.results import error_result, failed, item_result

log = logging.getLogger(__name__)

# The text of an exception may hold a whole request; no request may fill the disk.
_MAX_TRACEBACK_CHARACTERS = 16_000


class BadHandlerOutput(Exception):
    """The handler returned something other than one result per request; the text is TorchServe's."""


class BatchRunner:
    """Runs whole batches, one at a time, on the calling thread.

    The state here is the context's view of the current batch.
    """

    def __init__(self, entry: EntryPoint, context: Context, load: Load) -> None:
        self._entry = entry
        self._context = context
        self._decode_parts = load.decode_input_request
        self._retry_on_error = load.retry_on_error
        self._max_response_bytes = load.max_response_size_bytes

    @property
    def capabilities(self) -> Capabilities:
        return self._entry.capabilities

    def run(self, batch: Predict) -> Result:
        """Answers to every request of the batch; an error in one of them stays with that one."""
        try:
            return Result(batch.batch_id, self._answer(batch.items))
        except BaseException as error:
            _log_failure(error)
            if len(batch.items) == 1 or not self._retry_on_error:
                return Result(batch.batch_id, [_error_result(item.id, error) for item in batch.items])
        log.info("Running the %d requests of the failed batch one by one.", len(batch.items))
        return Result(batch.batch_id, [self._answer_alone(item) for item in batch.items])

    def _answer_alone(self, item: PredictItem) -> ItemResult:
        try:
            return self._answer([item])[0]
        except BaseException as error:
            _log_failure(error)
            return _error_result(item.id, error)

    def _answer(self, items: list[PredictItem]) -> list[ItemResult]:
        """Raises what the handler raises, and `BadHandlerOutput`."""
        # Rows are made anew for every attempt: the handler may have changed those of the last one.
        rows = [{part.name: self._decode(part) for part in item.parts} for item in items]
        processors = self._announce(items)
        outputs = self._entry.handle(rows, self._context)
        if not isinstance(outputs, list):
            raise BadHandlerOutput(
                f"Invalid model predict output. Expected a list of {len(items)}, got {type(outputs).__name__}."
            )
        if len(outputs) != len(items):
            raise BadHandlerOutput(
                f"number of batch response mismatched. The handler got {len(items)} requests and "
                f"returned {len(outputs)} results."
            )
        return [
            item_result(item.id, output, processor, self._max_response_bytes)
            for item, output, processor in zip(items, outputs, processors, strict=True)
        ]

    def _announce(self, items: list[PredictItem]) -> list[RequestProcessor]:
        """Tells the context which requests the next `handle` call is about."""
        processors = [RequestProcessor(_request_headers(item)) for item in items]
        self._context.request_ids = {index: item.id for index, item in enumerate(items)}
        self._context.request_processor = processors
        self._context.metrics.set_request_ids(self._context.request_ids)
        return processors

    def _decode(self, part: Part) -> Any:
        """JSON -> parsed, text -> str, the rest -> bytearray; what does not decode stays a bytearray."""
        if not self._decode_parts:
            return bytearray(part.data)
        media_type = part.content_type.partition(";")[0].strip()
        try:
            if media_type == "application/json":
                return json.loads(bytes(part.data))
            if media_type.startswith("text"):
                return bytes(part.data).decode()
        except (ValueError, RecursionError) as error:
            log.warning("A %s body could not be decoded and is passed on as bytes: %s", media_type, error)
        return bytearray(part.data)


def _request_headers(item: PredictItem) -> dict[str, Any]:
    """One dict as handlers expect it: parts by name, then the HTTP headers as the client spelled them."""
    headers: dict[str, Any] = {part.name: {"content-type": part.content_type} for part in item.parts}
    headers.update(item.headers)
    return headers


def _log_failure(error: BaseException) -> None:
    if isinstance(error, PredictionException) and error.error_code < 500:
        log.info("Request refused with %d: %s", error.error_code, error.message)
    else:
        text = traceback.format_exc()
        more = len(text) - _MAX_TRACEBACK_CHARACTERS
        log.error("%s%s", text[:_MAX_TRACEBACK_CHARACTERS], f"… ({more} more characters)" if more > 0 else "")


def _error_result(id: str, error: BaseException) -> ItemResult:
    return failed(id, 503, str(error)) if isinstance(error, BadHandlerOutput) else error_result(id, error)
