"""What a request wants explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.errors import PredictionException


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
