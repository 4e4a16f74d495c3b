"""`service_envelope=json`: TensorFlow Serving's row format, https://www.tensorflow.org/tfx/serving/api_rest."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from typing import Any

from handlers.envelopes.base import BaseEnvelope, Entry
from handlers.envelopes.json_body import bad_request, json_object, list_in
from handlers.errors import PredictionException


class JSONEnvelope(BaseEnvelope):
    """`{"instances": [...]}` in, `{"predictions": [...]}` out; the instances of a batch reach the handler together.

    The handler answers each instance by a result.
    """

    def __init__(self, handle_fn: Entry) -> None:
        super().__init__(handle_fn)
        self._counts: list[int] = []

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        requests = [[_decoded(instance) for instance in list_in(json_object(row), "instances")] for row in data]
        self._counts = [len(instances) for instances in requests]
        return [instance for instances in requests for instance in instances]

    def format_output(self, data: Any) -> list[str]:
        """JSON text per request.

        Raises:
            PredictionException: 503, several requests and not one result per instance.
        """
        if len(self._counts) > 1 and len(data) != sum(self._counts):
            raise PredictionException(
                f"number of batch response mismatched. The handler got {sum(self._counts)} instances and "
                f"returned {len(data)} results.",
                503,
            )
        ends = [sum(self._counts[: index + 1]) for index in range(len(self._counts))]
        return [
            json.dumps({"predictions": data[end - count : end]}) for count, end in zip(self._counts, ends, strict=True)
        ]


def _decoded(instance: Any) -> Any:
    """`{"b64": ...}` to the bytes it stands for, alone or as a value of an object."""
    if not isinstance(instance, dict):
        return instance
    if list(instance) == ["b64"]:
        return _bytes(instance["b64"])
    return {key: _bytes(value["b64"]) if _is_b64(value) else value for key, value in instance.items()}


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]


def _bytes(text: Any) -> bytes:
    try:
        return b64decode(text)
    except (TypeError, ValueError, binascii.Error) as error:
        raise bad_request(f"b64 must be base64 text: {error}") from error
