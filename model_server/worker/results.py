"""What a handler returns or raises -> the bytes, status and headers of answers."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

from handlers.context import RequestProcessor
from handlers.errors import PredictionException
from model_server.wire.messages import Headers, ItemResult
from model_server.worker.failures import is_out_of_memory, shortened, text_of

log = logging.getLogger(__name__)

# Everything `json.dumps` raises for a value it cannot write.
_UNSERIALISABLE = (TypeError, ValueError, OverflowError, RecursionError)
# What a handler says to clients besides its result. Clients read no longer header lines: Python's stop at 65,536 bytes.
_MAX_HEADER_CHARACTERS = 60_000
_MAX_REASON_CHARACTERS = 1_000


class UnsupportedOutput(Exception):
    """The value cannot be sent."""


def encode_output(value: Any) -> bytes:
    """bytes as they are, str as UTF-8, a tensor as `torch.save` writes it, anything else as JSON indented by two."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    torch: Any = sys.modules.get("torch")
    # An archive may hold a module of that name, which is another.
    if isinstance(value, getattr(torch, "Tensor", ())):
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()
    try:
        return json.dumps(value, indent=2).encode()
    except _UNSERIALISABLE as error:
        raise UnsupportedOutput(f"{type(value).__name__}: {error}") from error


def item_result(id: str, value: Any, processor: RequestProcessor, max_bytes: int) -> ItemResult:
    """The answer to one request; a value that cannot be sent spoils only its own answer."""
    try:
        body = encode_output(value)
    except (UnsupportedOutput, UnicodeEncodeError) as error:
        log.warning("Unsupported model output data type. %s", error)
        return failed(id, 503, f"Unsupported model output data type. The handler returned a {type(value).__name__}.")
    if len(body) > max_bytes:
        return failed(id, 500, f"The answer has {len(body)} bytes, more than max_response_size={max_bytes}.")
    return ItemResult(
        id,
        _checked_status(processor.get_response_status_code()),
        _one_line(processor.get_response_status_phrase() or ""),
        _sendable_headers(processor.get_response_headers()),
        body,
    )


def failed(id: str, status: int, message: str) -> ItemResult:
    return ItemResult(id, status=status, error=shortened(message))


def error_result(id: str, error: BaseException) -> ItemResult:
    """Status and text for an exception of the handler: TorchServe's text first, then the exception's name.

    The exception's own text may hold paths or data of other clients; it goes to the log only, unless the handler
    chose it for the client by raising `PredictionException`.
    """
    if isinstance(error, PredictionException):
        # 413 would say that the request was too large; TorchServe reports it as memory.
        status = 507 if error.error_code == 413 else _checked_status(error.error_code)
        return failed(id, status, text_of(error.message))
    if is_out_of_memory(error):
        return failed(id, 507, "Out of resources")
    name = type(error).__name__
    if not isinstance(error, Exception):
        return failed(id, 500, f"Prediction failed. The handler tried to end the worker ({name}).")
    return failed(id, 503, f"Prediction failed. The handler raised {name}; the model log has the traceback.")


def _checked_status(status: Any) -> int:
    if isinstance(status, int) and 200 <= status <= 999:
        return status
    log.warning("The handler set status %r, which is no HTTP status; 500 is sent.", status)
    return 500


def _sendable_headers(headers: dict[str, Any]) -> Headers:
    """Headers without those that would break the response on the wire, or make it too long for clients."""
    sendable: Headers = []
    dropped = []
    room = _MAX_HEADER_CHARACTERS
    for key, value in headers.items():
        name, text = str(key), str(value)
        if len(name) + len(text) <= room and _is_token(name) and _is_field_value(text):
            room -= len(name) + len(text)
            sendable.append((name, text))
        else:
            dropped.append(name[:100])
    if dropped:
        log.warning(
            "Response headers that HTTP does not allow, or beyond %d characters in all, were dropped: %.1000s",
            _MAX_HEADER_CHARACTERS,
            dropped,
        )
    return sendable


def _is_token(text: str) -> bool:
    """RFC 9110, section 5.6.2; and none of the headers that frame the message."""
    framing = {"content-length", "transfer-encoding", "connection"}
    return (
        bool(text)
        and text.lower() not in framing
        and all(33 <= ord(c) < 127 and c not in '"(),/:;<=>?@[\\]{}' for c in text)
    )


def _is_field_value(text: str) -> bool:
    """RFC 9110, section 5.5: no control character but tab; and no lone surrogate, which UTF-8 cannot write."""
    return all(c == "\t" or (c >= " " and c != "\x7f" and not "\ud800" <= c <= "\udfff") for c in text)


def _one_line(text: str) -> str:
    return "".join(c for c in str(text)[:_MAX_REASON_CHARACTERS] if c.isprintable())
