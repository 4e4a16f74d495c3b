"""Answers in parts: what a handler sends before it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handlers.context import Context
from handlers.errors import PredictionException, RequestCancelled


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
        ret: results by the keys of `req_id_map`, encoded as returned ones are.
        req_id_map: the requests to send to: `context.request_ids` or a part of it, which may count from 0 again, as
            handlers of micro batches do; the ids decide. Without ids: indices in the batch.
        message, code: what is wrong, when `code` is not 200; then the requests of the batch end with it.

    Raises:
        PredictionException: `code` is not 200, or a result cannot be sent.
        RequestCancelled: every client of the batch has gone away or has its answer, so there is nothing left to do.
    """
    if context is None or context.send_chunk is None:
        raise ValueError("send_intermediate_predict_response needs the context that handle() was called with")
    if code != 200:
        raise PredictionException(message, code)
    send = context.send_chunk
    for key, index in _receivers(req_id_map, context):
        send(index, ret[key])


def _receivers(req_id_map: Mapping[int, str] | Iterable[int], context: Context) -> list[tuple[int, int]]:
    """Where each result stands in `ret`, and the index in the batch of the request that it is for."""
    if not isinstance(req_id_map, Mapping):
        return [(index, index) for index in req_id_map]
    indices = {id: index for index, id in (context.request_ids or {}).items()}
    # A thread that outlives its call of `handle` holds ids of a batch that is over; the next batch has other clients.
    if not indices.keys() >= set(req_id_map.values()):
        raise RequestCancelled("the batch of these requests is over")
    return [(key, indices[id]) for key, id in req_id_map.items()]
