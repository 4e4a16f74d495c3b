"""`service_envelope=kserve`: version 1 of KServe's protocol.

https://kserve.github.io/website/latest/modelserving/data_plane/v1_protocol/
"""

from __future__ import annotations

from typing import Any

from handlers.envelopes.base import RequestEnvelope
from handlers.envelopes.json_body import json_object, list_in


class KServeEnvelope(RequestEnvelope):
    """`{"instances": [...]}` in, `{"predictions": ...}` or `{"explanations": ...}` out.

    The handler gets the instances of one request as its rows; what it returns for them is the answer's value.
    """

    def parse_input(self, data: list[dict[str, Any]]) -> list[Any]:
        return list_in(json_object(data[0]), "instances")

    def format_output(self, data: Any) -> list[dict[str, Any]]:
        explained = self.context.get_request_header(0, "explain") == "True"
        return [{"explanations" if explained else "predictions": data}]
