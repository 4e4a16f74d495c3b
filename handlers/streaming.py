"""Answers in parts: what a handler sends before it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handlers.context import Context
from handlers.errors import PredictionException


def send_intermediate_predict_response(
    ret: Sequence[Any] | Mapping[int, Any],
    req_id_map: Mapping[int, str] | Iterable[int],
    message: str,
    code: int,
    context: Context | None = None,
) -> None:
    """Sends one part of the answers at once; what `handle` returns is their last part.

    The status and the headers set on the context go out with a request's first part; those set later are lost. Blocks
    while a client takes its parts more slowly than they come.

    Args:
        ret: results by index in the batch, encoded as returned ones are.
        req_id_map: the requests to send to: `context.request_ids`, or a part of it.
        message, code: what is wrong, when `code` is not 200; then the requests of the batch end with it.

    Raises:
        PredictionException: `code` is not 200, or a result cannot be sent.
        RequestCancelled: every client of the batch has gone away, so there is nothing left to do.
    """
    if context is None or context.send_chunk is None:
        raise ValueError("send_intermediate_predict_response needs the context that handle() was called with")
    if code != 200:
        raise PredictionException(message, code)
    for index in req_id_map:
        context.send_chunk(index, ret[index])
