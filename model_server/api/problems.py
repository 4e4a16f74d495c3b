"""Answers of the server itself: JSON documents, status texts and errors, in TorchServe's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from model_server.errors import QueueFull, ServerError

# Set on responses that must carry no Content-Type unless the handler gave one.
NO_CONTENT_TYPE = web.ResponseKey("no content type", bool)
# Set on responses that carry none of the usual headers.
BARE = web.ResponseKey("bare", bool)


def json_text(document: Any) -> str:
    """Indented by two, keys in the given order; what is no Unicode character is escaped."""
    return json.dumps(document, indent=2, ensure_ascii=False).encode(errors="backslashreplace").decode()


def json_response(
    document: Any, status: int = 200, headers: Mapping[str, str] | None = None, reason: str | None = None
) -> web.Response:
    """The document and one line feed. Header values may not hold what JSON text may: only the body is UTF-8."""
    response = web.Response(body=f"{json_text(document)}\n".encode(), status=status, headers=headers, reason=reason)
    response.headers["content-type"] = "application/json"
    return response


def status_response(text: str, status: int = 200) -> web.Response:
    return json_response({"status": text}, status)


def error_response(error: ServerError) -> web.Response:
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, QueueFull) else None
    document = {"code": error.status, "type": error.type, "message": error.message}
    return json_response(document, error.status, headers)


def bare_response(
    body: bytes | bytearray | memoryview, status: int, reason: str, headers: list[tuple[str, str]]
) -> web.Response:
    """A handler's own answer: nothing is added to its headers, least of all a content type."""
    response = web.Response(body=body, status=status, reason=reason)
    bare_headers(response, headers)
    return response


def bare_headers(response: web.StreamResponse, headers: list[tuple[str, str]]) -> None:
    """Sets the headers of the handler and sees to it that no content type is invented."""
    if not any(key.lower() == "content-type" for key, _ in headers):
        response[NO_CONTENT_TYPE] = True
    for key, value in headers:
        response.headers[key] = value


def too_large() -> web.Response:
    """413 as TorchServe sends it: without a body."""
    response = web.Response(status=413)
    response[NO_CONTENT_TYPE] = response[BARE] = True
    response.force_close()
    return response
