"""What a handler knows about its model and about the requests of the current batch.

One `Context` lives as long as the worker: the same object reaches `initialize` and every `handle`, so handlers may hang
attributes of their own on it (`context.cache`). The worker replaces `request_ids` and `request_processor` for each
batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What TorchServe calls itself here; handlers were seen to compare it.
SERVER_NAME = "MMS"


class RequestProcessor:
    """Headers of one request, and the status and headers its answer will carry."""

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._request_header = dict(request_header)
        self._status_code = 200
        self._reason_phrase: str | None = None
        self._response_header: dict[str, str] = {}

    def get_request_property(self, key: str) -> Any:
        """Value of a request header, spelled exactly as the client spelled it; None when absent."""
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._status_code = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> int:
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, str]:
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        return self._response_header.get(key)


class Context:
    """Model properties and per-request properties, under the names TorchServe handlers use.

    Args:
        model_name: name the model is registered under.
        model_dir: folder with the unpacked archive.
        manifest: `MAR-INF/MANIFEST.json` as packed, or None.
        batch_size: the most requests one `handle` call gets.
        gpu: device index within what this worker sees, or None for CPU.
        mms_version: version of the server.
        limit_max_image_pixels: False lifts PIL's limit in vision handlers.
        metrics: object with `add_metric`, `add_counter`, `add_time`, … (`handlers.metrics.MetricsRecorder`).
        model_yaml_config: model-config.yaml as a dict; {} without one.

    Attributes:
        stopping_criteria: by index in the batch, called with that request's result after each step of a model with
            continuousBatching: True ends its stream, False goes on, None makes the result its whole answer.
        send_chunk: sends a part of the answer to the request of that index (`handlers.streaming`); None where nobody
            can be sent anything.
    """

    def __init__(
        self,
        model_name: str,
        model_dir: str | Path,
        manifest: dict[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties: dict[str, Any] = {
            "model_dir": str(model_dir),
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": SERVER_NAME,
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.model_yaml_config: dict[str, Any] = {} if model_yaml_config is None else model_yaml_config
        self.metrics = metrics
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestProcessor] | None = None
        self.stopping_criteria: dict[int, Callable[[Any], bool | None]] | list[Callable[[Any], bool | None]] | None = (
            None
        )
        self.cl_socket: Any = None
        self.send_chunk: Callable[[int, Any], None] | None = None
        self.header_key_sequence_id = _sequence_header("ID")
        self.header_key_sequence_start = _sequence_header("START")
        self.header_key_sequence_end = _sequence_header("END")

    @property
    def system_properties(self) -> dict[str, Any]:
        return self._system_properties

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx) if self.request_ids else None

    def _processor(self, idx: int) -> RequestProcessor | None:
        return self.request_processor[idx] if self.request_processor else None

    def get_request_header(self, idx: int, key: str) -> Any:
        """Header of request `idx`, exact spelling; None when absent."""
        processor = self._processor(idx)
        return processor.get_request_property(key) if processor else None

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        processor = self._processor(idx)
        return processor.get_request_properties() if processor else {}

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self.get_response_headers(idx).get("content-type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Status of one answer; its body stays what `handle` returns."""
        processor = self._processor(idx)
        if processor:
            processor.report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for processor in self.request_processor or []:
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        processor = self._processor(idx)
        if processor is None:
            return 200, None
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def get_response_headers(self, idx: int) -> dict[str, str]:
        processor = self._processor(idx)
        return processor.get_response_headers() if processor else {}

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        processor = self._processor(idx)
        if processor:
            processor.add_response_property(key, value)

    def get_sequence_id(self, idx: int) -> str | None:
        value = self.get_request_header(idx, self.header_key_sequence_id)
        return None if value is None else str(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value


def _sequence_header(what: str) -> str:
    """Name of a header of stateful inference; the server sets the variables where config.properties renames it."""
    return os.environ.get(f"TS_REQUEST_SEQUENCE_{what}", f"ts_request_sequence_{what.lower()}")
