"""Streamed answers: one HTTP chunk for each part that the handler sends."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.http import HttpVersion11

from model_server.api.problems import bare_headers
from model_server.errors import ServerError
from model_server.serving.streams import Stream, patience_s

log = logging.getLogger(__name__)

_WITHOUT_BODY = (204, 304)


async def stream_response(request: web.Request, stream: Stream) -> web.StreamResponse:
    """Sends the parts as they come.

    After the head is sent there is no way to report an error but to close the connection without the last chunk, which
    tells the client that the answer is not whole.
    """
    response = web.StreamResponse(status=stream.status, reason=stream.reason)
    bare_headers(response, stream.headers)
    if request.version < HttpVersion11:
        response.force_close()  # without chunks only the end of the connection ends the body
    try:
        await response.prepare(request)
        has_body = request.method != "HEAD" and response.status not in _WITHOUT_BODY
        async for part in stream:
            if has_body:
                async with asyncio.timeout(patience_s(len(part))):
                    await response.write(part)
    except ServerError as error:
        _log_cut(request, error.message)
        if request.transport is not None:
            request.transport.close()
    except TimeoutError:
        _log_cut(request, "its client takes it too slowly.")
        if request.transport is not None:
            request.transport.abort()  # a close would wait until the client has taken the rest
    except ConnectionError:
        pass  # the client is gone; `abandon` tells the handler
    finally:
        stream.abandon()
    return response


def _log_cut(request: web.Request, reason: str) -> None:
    log.warning("The streamed answer to %s is cut off: %s", request.rel_url.raw_path, reason)
