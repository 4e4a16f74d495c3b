"""HTTP bodies -> named parts. Bytes stay bytes: what they mean is for the worker to find out."""

from __future__ import annotations

import re

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from model_server.api.paths import form_decode, query_values
from model_server.errors import BadRequest
from model_server.wire.messages import Headers, Part

_MAX_FIELDS = 1000
_MULTIPART = "multipart/form-data"
_FORM = "application/x-www-form-urlencoded"
# A file without a type of its own, as browsers and curl understand it.
_FILE_TYPE = "application/octet-stream"
_OF_THE_TRANSPORT = (b"transfer-encoding", b"expect")


async def read_parts(request: web.Request) -> list[Part]:
    """The body as the handler's dict will have it: `body`, or one part per form field.

    Raises:
        BadRequest: the form is malformed.
        aiohttp.web.HTTPRequestEntityTooLarge: more than max_request_size bytes.
    """
    content_type = _media_type(request.headers.get("Content-Type", ""))
    if content_type.lower() == _MULTIPART:
        return await _multipart(request)
    body = await _read(request)
    if content_type.lower() == _FORM:
        return _form(body)
    return [Part("body", body, content_type)]


def query_parts(request: web.Request) -> list[Part]:
    """Query parameters as parts, for the routes that hand them to the handler."""
    return [Part(name, value) for name, value in query_values(request.rel_url.raw_query_string)]


def client_headers(request: web.Request) -> Headers:
    """All headers in the client's own spelling, once the body is read; the last of several with one name counts.

    Handlers see the length of every body, and nothing of how it travelled.
    """
    headers = [
        (key.decode(errors="surrogateescape"), value.decode(errors="surrogateescape"))
        for key, value in request.raw_headers
        if key.lower() not in _OF_THE_TRANSPORT
    ]
    if "Content-Length" not in request.headers:
        headers.append(("content-length", str(request.content.total_bytes)))
    return headers


async def _read(request: web.Request) -> bytes:
    """As `request.read()`, which copies a body twice more, and is slower where it came together with its head."""
    content = request.content
    if content.is_eof():
        body = content.read_nowait()
        _check_size(request)
        return body
    content.set_read_chunk_size(request.client_max_size)  # else reading stops and goes on for every few chunks
    chunks = []
    while chunk := await content.readany():
        chunks.append(chunk)
        _check_size(request)
    return b"".join(chunks)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip()


def _form(body: bytes) -> list[Part]:
    fields = [field for field in re.split(b"[&;]", body, maxsplit=_MAX_FIELDS) if field]
    if len(fields) > _MAX_FIELDS:
        raise BadRequest(f"The form has more than {_MAX_FIELDS} fields.")
    parts = []
    for field in fields:
        name, _, value = field.partition(b"=")
        parts.append(Part(form_decode(name).decode(errors="replace"), form_decode(value)))
    return parts


async def _multipart(request: web.Request) -> list[Part]:
    """A plain field stays raw whatever it says of itself; a file is decoded by its own content type."""
    parts: list[Part] = []
    try:
        reader = await request.multipart()
        while (field := await reader.next()) is not None:
            if not isinstance(field, BodyPartReader):
                raise BadRequest("A form field holds another multipart body, which no handler can be given.")
            if not field.name:
                raise BadRequest("A part of the multipart body has no name.")
            if len(parts) == _MAX_FIELDS:
                raise BadRequest(f"The form has more than {_MAX_FIELDS} fields.")
            parts.append(Part(field.name, await _read_field(field, request), _content_type(field)))
        _check_size(request)
    except (ValueError, AssertionError, HttpProcessingError) as error:
        raise BadRequest(f"The multipart body is malformed: {error}") from error
    return parts


async def _read_field(field: BodyPartReader, request: web.Request) -> bytes:
    data = bytearray()
    while chunk := await field.read_chunk(1 << 16):
        data += chunk
        _check_size(request)
    return bytes(field.decode(data))


def _check_size(request: web.Request) -> None:
    """Counts what came in so far, boundaries and heads included: a chunked body does not say its size beforehand."""
    size = request.content.total_bytes
    if size > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(max_size=request.client_max_size, actual_size=size)


def _content_type(field: BodyPartReader) -> str:
    return "" if field.filename is None else _media_type(field.headers.get("Content-Type", _FILE_TYPE))
