"""HTTP listeners: one catch-all route per port, because TorchServe decides by decoded path and not by method."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from model_server.api.paths import path_segments
from model_server.api.problems import NO_CONTENT_TYPE, error_response, too_large
from model_server.config.addresses import Address
from model_server.config.server import Cors, ServerConfig
from model_server.errors import ResourceNotFound, ServerError

log = logging.getLogger(__name__)

REQUEST_ID = "request id"
# How long running requests have when the server is told to stop.
DRAIN_TIMEOUT_S = 30.0

# Answers a request whose path it knows; None for any other.
Route = Callable[[web.Request, list[str]], Awaitable[web.StreamResponse | None]]

_NO_CACHE = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


class Site:
    """One listener. The state here is aiohttp's runner; `start` opens the port, `stop` closes it."""

    def __init__(self, routes: Sequence[Route], config: ServerConfig) -> None:
        app = web.Application(client_max_size=config.max_request_size_bytes)
        app.router.add_route("*", r"/{path:[\s\S]*}", Dispatcher(routes, config.cors), expect_handler=_continue)
        app.on_response_prepare.append(_keep_only_own_headers)
        self._app = app
        self._runner: web.AppRunner | None = None

    async def start(self, address: Address) -> Address:
        """Returns the address with the port that was really taken. Raises OSError when it cannot be had."""
        # A client that goes away ends its request's coroutine, which takes the job out of the queue.
        self._runner = web.AppRunner(
            self._app, handler_cancellation=True, access_log=None, shutdown_timeout=DRAIN_TIMEOUT_S
        )
        await self._runner.setup()
        if address.path is not None:
            await web.UnixSite(self._runner, os.fspath(address.path)).start()
            return address
        await web.TCPSite(self._runner, address.host, address.port).start()
        host, port, *_ = self._runner.addresses[0]
        return Address(address.scheme, host, port)

    async def stop(self) -> None:
        """Closes the port, lets running requests finish, then closes every connection."""
        if self._runner is not None:
            await self._runner.cleanup()


class Dispatcher:
    """Gives a request to the first route that knows its path; turns errors into answers."""

    def __init__(self, routes: Sequence[Route], cors: Cors) -> None:
        self._routes = routes
        self._headers = {
            **_NO_CACHE,
            **{
                name: value
                for name, value in (
                    ("access-control-allow-origin", cors.allowed_origin),
                    ("access-control-allow-methods", cors.allowed_methods),
                    ("access-control-allow-headers", cors.allowed_headers),
                )
                if value
            },
        }

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        request[REQUEST_ID] = str(uuid.uuid4())
        try:
            response = await self._answer(request)
        except ServerError as error:
            response = error_response(error)
        except web.HTTPRequestEntityTooLarge:
            return too_large()
        except Exception:
            log.exception("An unexpected error while answering %s %s", request.method, request.rel_url.raw_path)
            response = error_response(ServerError("Internal server error; the server's log has the cause."))
        self._finish(request, response)
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if (request.content_length or 0) > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
        segments = path_segments(request)
        for route in self._routes:
            response = await route(request, segments)
            if response is not None:
                return response
        raise ResourceNotFound

    def _finish(self, request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers["x-request-id"] = request[REQUEST_ID]
        for name, value in self._headers.items():
            if name in _NO_CACHE or name not in headers:
                headers[name] = value
        if response.status >= 400 or not request.keep_alive:
            response.force_close()
            headers["connection"] = "close"
        else:
            headers["connection"] = "keep-alive"


async def _continue(request: web.Request) -> web.Response | None:
    """Answers `Expect: 100-continue`: a client asks so as not to send a body that is too large for nothing."""
    if (request.content_length or 0) > request.client_max_size:
        return too_large()
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
    return None


async def _keep_only_own_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Takes back what aiohttp adds by itself and TorchServe's clients do not get."""
    del response.headers["Server"]
    del response.headers["Date"]
    if response.get(NO_CONTENT_TYPE):
        response.headers.popall("Content-Type", None)
