"""Envelopes: formats around a handler's own, taken off requests and put on answers (`service_envelope=`)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from handlers.context import Context
from handlers.errors import ModelLoadError

Entry = Callable[[Any, Context], Any]


class Envelope(abc.ABC):
    """Wraps an entry point. Empty batches and empty results pass untouched, as in TorchServe.

    Args:
        entry: what is called with the unwrapped requests and the context.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self.context: Context | None = None

    def __call__(self, data: Any, context: Context) -> Any:
        self.context = context
        results = self._entry(self.parse_input(data) if data else data, context)
        return self.format_output(results) if results else results

    @abc.abstractmethod
    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]: ...

    @abc.abstractmethod
    def format_output(self, results: Any) -> Any: ...


class BodyEnvelope(Envelope):
    """The handler gets each request's `data` or `body` itself instead of a dict around it."""

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        return [row.get("data") or row.get("body") for row in data]

    def format_output(self, results: Any) -> Any:
        return results


ENVELOPES: dict[str, type[Envelope]] = {
    "body": BodyEnvelope,
}


def wrap(name: str, entry: Entry) -> Entry:
    """`entry` inside the envelope of that name.

    Raises:
        ModelLoadError: unknown name; the known ones are listed.
    """
    if name not in ENVELOPES:
        raise ModelLoadError(f"service_envelope {name!r} is not known; known: {', '.join(sorted(ENVELOPES))}")
    return ENVELOPES[name](entry)
