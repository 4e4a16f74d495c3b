"""Request targets -> decoded path segments and query values, by TorchServe's rules."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from aiohttp import web

from model_server.errors import IllegalArgument

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_MAX_QUERY_VALUES = 1024


def path_segments(request: web.Request) -> list[str]:
    """Percent-decoded before it is split, so `%2F` separates too; empty segments at the end are dropped."""
    path = request.rel_url.raw_path
    if "%" in path:
        if _BAD_ESCAPE.search(path):
            raise IllegalArgument(f"The path holds an incomplete percent escape: {path[:200]}")
        path = unquote_to_bytes(path).decode(errors="replace")
    return path.rstrip("/").split("/")[1:]


def query_values(query: str) -> list[tuple[str, bytes]]:
    """Names and values in order; `&` and `;` separate, `+` is a blank."""
    if not query:
        return []
    pairs = []
    for field in re.split("[&;]", query)[:_MAX_QUERY_VALUES]:
        name, _, value = field.partition("=")
        if name:
            pairs.append((form_decode(name).decode(errors="replace"), form_decode(value)))
    return pairs


def form_decode(text: str | bytes) -> bytes:
    """`application/x-www-form-urlencoded` text to the bytes it stands for."""
    data = text.encode() if isinstance(text, str) else text
    return unquote_to_bytes(data.replace(b"+", b" "))
