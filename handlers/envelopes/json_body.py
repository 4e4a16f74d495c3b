"""The JSON object that a request of one of the JSON protocols must be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from handlers.errors import PredictionException


def json_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """`data` or `body` of a row, or the row itself where it has neither; parsed here where the client did not say JSON.

    Raises:
        PredictionException: 400, it is no JSON object.
    """
    value = row.get("data") or row.get("body", row)
    if isinstance(value, str | bytes | bytearray):
        value = _parsed(value)
    if not isinstance(value, dict):
        raise bad_request(f"expected a JSON object, got {type(value).__name__}")
    return value


def list_in(document: Mapping[str, Any], key: str) -> list[Any]:
    """The list, with something in it, that `document` has under `key`.

    Raises:
        PredictionException: 400, it has none.
    """
    if key not in document:
        found = [str(name)[:40] for name in document][:8]
        raise bad_request(f'expected {{"{key}": [...]}}, sent as application/json; found the keys {found}')
    value = document[key]
    if not isinstance(value, list):
        raise bad_request(f"{key} must be a list, got {type(value).__name__}")
    if not value:
        raise bad_request(f"{key} is empty")
    return value


def bad_request(message: str) -> PredictionException:
    return PredictionException(message, 400)


def _parsed(text: str | bytes | bytearray) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not valid JSON: {error}") from error
