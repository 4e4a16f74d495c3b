"""Tensors of the Open Inference Protocol, as JSON holds them, to nested lists and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.envelopes.json_body import bad_request
from handlers.errors import PredictionException

# numpy's name -> the protocol's.
_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
_KNOWN = tuple(_DATATYPES.values())


def checked_tensor(given: Any) -> dict[str, Any]:
    """An input of a request, its `data` as a handler gets it: numbers in the given shape, one text, or several.

    Raises:
        PredictionException: 400, naming the input and what is wrong with it.
    """
    if not isinstance(given, Mapping):
        raise bad_request(f"an input must be a JSON object, got {type(given).__name__}")
    missing = [key for key in ("name", "shape", "datatype", "data") if given.get(key) is None]
    if missing:
        raise bad_request(f"input {given.get('name')!r} has no {', '.join(missing)}")
    datatype = given["datatype"]
    if datatype not in _KNOWN:
        raise bad_request(f"input {given['name']!r}: datatype {datatype!r} is not known; known: {', '.join(_KNOWN)}")
    try:
        data = _texts(given["data"]) if datatype == "BYTES" else _numbers(given["data"], given["shape"])
    except (TypeError, ValueError) as error:
        raise bad_request(f"input {given['name']!r}: {error}") from error
    return {**given, "data": data}


def flattened(result: Any) -> tuple[list[Any], str]:
    """All values of a result in row-major order, and their datatype.

    Raises:
        PredictionException: 503, the protocol has no datatype for them.
    """
    array = _array(result).flatten()
    datatype = "BYTES" if array.dtype.kind == "U" else _DATATYPES.get(array.dtype.name)
    if datatype is None:
        raise PredictionException(f"Prediction failed. The protocol has no datatype for {array.dtype.name}.", 503)
    return array.tolist(), datatype


def _texts(data: Any) -> Any:
    import numpy

    texts = numpy.asarray(data, dtype=object).ravel().tolist()
    if not texts:
        raise ValueError("data is empty")
    return texts[0] if len(texts) == 1 else texts


def _numbers(data: Any, shape: Any) -> Any:
    import numpy

    array = numpy.asarray(data)
    if array.dtype.kind == "U":
        raise ValueError("data must hold numbers, found text; text has the datatype BYTES")
    try:
        return array.reshape(shape).tolist()
    except (TypeError, ValueError) as error:
        raise ValueError(f"shape {shape} does not fit its {array.size} values") from error


def _array(result: Any) -> Any:
    import numpy

    try:
        return numpy.array(result)
    except ValueError:  # lists of different length
        array = numpy.empty(len(result), dtype=object)
        array[:] = result
        return array
