"""Inputs of the Open Inference Protocol, as the kservev2 envelope hands them over, to texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.errors import PredictionException

_KEYS = frozenset(("name", "shape", "datatype", "data"))


def is_tensor(value: Mapping[str, Any]) -> bool:
    return value.keys() >= _KEYS


def texts_of(tensor: Mapping[str, Any]) -> Any:
    """One text, or a list of them.

    BYTES are texts already. Whole numbers are the UTF-8 bytes of a text, a row of a matrix each; zeros at its end pad.

    Raises:
        PredictionException: 400 for other numbers, such as token ids.
    """
    data = tensor["data"]
    if tensor["datatype"] == "BYTES":
        return data
    rows = data if isinstance(data, list) and all(isinstance(row, list) for row in data) else [data]
    try:
        texts = [bytes(iter(row)).rstrip(b"\0") for row in rows]
    except (TypeError, ValueError) as error:
        raise PredictionException(
            f"input {tensor['name']!r}: numbers are read as the UTF-8 bytes of a text and must be from 0 to 255; "
            "token ids are not taken, send the text itself with the datatype BYTES",
            400,
        ) from error
    return texts[0] if len(texts) == 1 else texts


def parameters_of(tensor: Mapping[str, Any]) -> Mapping[str, Any]:
    """What else the client says about the input.

    Raises:
        PredictionException: 400, it is no object.
    """
    parameters = tensor.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise PredictionException(
            f"input {tensor['name']!r}: parameters must be an object, got {type(parameters).__name__}", 400
        )
    return parameters
