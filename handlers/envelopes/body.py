"""`service_envelope=body`."""

from __future__ import annotations

from typing import Any

from handlers.envelopes.base import BaseEnvelope


class BodyEnvelope(BaseEnvelope):
    """The handler gets each request's `data` or `body` itself instead of a dict around it."""

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        return [row.get("data") or row.get("body") for row in data]

    def format_output(self, data: Any) -> Any:
        return data
