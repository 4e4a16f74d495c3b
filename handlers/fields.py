"""Fields of a request: where its content stands, and the class that it wants explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.errors import PredictionException
from handlers.scalars import as_whole_number


def request_fields(row: Any) -> Mapping[str, Any]:
    """Where `data`, `body` and `target` of a request stand: in the row, or in the JSON object that is its body."""
    if not isinstance(row, Mapping):
        return {"data": row}
    content = row.get("data") or row.get("body")
    return content if isinstance(content, Mapping) else row


def target_of(fields: Mapping[str, Any]) -> Any:
    """The class to explain, 0 unless given; form fields arrive as bytes.

    Raises:
        PredictionException: 400 when a form field holds no whole number.
    """
    target = fields.get("target") or 0
    if not isinstance(target, bytes | bytearray):
        return target
    try:
        return int(target)
    except ValueError as error:
        raise PredictionException(f"target {bytes(target)!r} is not a whole number", 400) from error


def index_target(target: object, size: int) -> int:
    """An index below `size`; numeric text counts.

    Raises:
        PredictionException: 400, naming the range that is allowed.
    """
    try:
        return as_whole_number(target, 0, size - 1)
    except ValueError as error:
        raise PredictionException(f"target: {error}", 400) from error
