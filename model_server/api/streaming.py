"""Streamed answers: one HTTP chunk for each part that the handler sends."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.http import HttpVersion11

from model_server.api.problems import bare_headers
from model_server.errors import ServerError
from model_server.serving.streams import Stream

log = logging.getLogger(__name__)

# A client that takes nothing for so long holds up the worker that streams to it.
_STALLED_CLIENT_S = 60.0


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
        async for part in stream:
            async with asyncio.timeout(_STALLED_CLIENT_S):
                await response.write(bytes(part))
    except ServerError as error:
        _cut(request, error.message)
    except TimeoutError:
        _cut(request, f"its client took nothing for {_STALLED_CLIENT_S:g} s")
    except ConnectionError:
        pass  # the client is gone; `abandon` tells the handler
    finally:
        stream.abandon()
    return response


def _cut(request: web.Request, reason: str) -> None:
    log.warning("The streamed answer to %s is cut off: %s", request.rel_url.raw_path, reason)
    if request.transport is not None:
        request.transport.close()
