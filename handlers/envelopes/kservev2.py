"""`service_envelope=kservev2`: the Open Inference Protocol in JSON, for handlers that look at its inputs themselves.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from handlers.envelopes.base import Entry, RequestEnvelope
from handlers.envelopes.json_body import json_object, list_in
from handlers.envelopes.one_request import attributes
from handlers.envelopes.tensors import checked_tensor, flattened
from handlers.errors import PredictionException


class KServev2Envelope(RequestEnvelope):
    """`{"inputs": [...]}` in, `{"id", "model_name", "model_version", "outputs": [...]}` out.

    The handler gets the inputs of one request as its rows, dicts with `name`, `shape`, `datatype` and `data`: nested
    lists in the given shape; for BYTES the text itself, a list of them where there are several. While it runs,
    `context.input_names` and, where the client gave one, `context.input_request_id` are set. Result i becomes the
    output with the name of input i.
    """

    def __init__(self, handle_fn: Entry) -> None:
        super().__init__(handle_fn)
        self._names: list[str] = []
        self._id = ""

    def parse_input(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        document = json_object(data[0])
        inputs = [checked_tensor(each) for each in list_in(document, "inputs")]
        self._names = [each["name"] for each in inputs]
        given_id = str(document.get("id") or "")
        self._id = "" if given_id.isspace() else given_id
        return inputs

    @contextmanager
    def one_request(self, index: int) -> Iterator[None]:
        given = {"input_request_id": self._id} if self._id else {}
        with super().one_request(index), attributes(self.context, input_names=self._names, **given):
            yield

    def format_output(self, data: Any) -> list[dict[str, Any]]:
        if not isinstance(data, list):
            raise PredictionException(
                f"Invalid model predict output. Expected a list with one result per output, got {type(data).__name__}.",
                503,
            )
        model = (self.context.manifest or {}).get("model", {})
        return [
            {
                "id": self._id or self.context.get_request_id(0),
                "model_name": model.get("modelName", self.context.model_name),
                "model_version": model.get("modelVersion"),
                "outputs": [_output(self._name(index), result) for index, result in enumerate(data)],
            }
        ]

    def _name(self, index: int) -> str:
        return self._names[index] if index < len(self._names) else f"output-{index}"


def _output(name: str, result: Any) -> dict[str, Any]:
    values, datatype = flattened(result)
    return {"name": name, "datatype": datatype, "data": values, "shape": [len(values)]}
