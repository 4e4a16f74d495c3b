"""A context that is about a whole batch, seen for a while as if it were about one of its requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

_ABSENT = object()


@contextmanager
def only_request(context: Any, index: int) -> Iterator[None]:
    """Within it, index 0 is what `index` is outside: ids, headers, status, streams, metrics.

    The context stays the same object, so what a handler keeps on it is kept.
    """
    request_ids = {0: context.request_ids[index]} if context.request_ids else None
    processors = [context.request_processor[index]] if context.request_processor else None
    send = context.send_chunk
    send_own = send and (lambda _, value: send(index, value))
    of_metrics = nullcontext() if context.metrics is None else attributes(context.metrics, request_ids=request_ids)
    with (
        attributes(context, request_ids=request_ids, request_processor=processors, send_chunk=send_own),
        of_metrics,
    ):
        yield


@contextmanager
def attributes(owner: Any, **values: Any) -> Iterator[None]:
    """Within it `owner` has these attributes, afterwards those it had before."""
    before = {name: getattr(owner, name, _ABSENT) for name in values}
    _set(owner, values)
    try:
        yield
    finally:
        _set(owner, before)


def _set(owner: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is not _ABSENT:
            setattr(owner, name, value)
        elif hasattr(owner, name):
            delattr(owner, name)
