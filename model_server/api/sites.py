"""HTTP listeners: one catch-all route per port, because TorchServe decides by decoded path and not by method."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from model_server.api.paths import path_segments
from model_server.api.problems import BARE, NO_CONTENT_TYPE, error_response, status_response, too_large
from model_server.api.request_ids import RequestIds
from model_server.api.tls import BACKLOG, FAREWELL_S, Tls, TlsListener
from model_server.config.addresses import Address
from model_server.config.server import Cors, ServerConfig
from model_server.errors import BadRequest, ResourceNotFound, ServerError

log = logging.getLogger(__name__)

REQUEST_ID = web.RequestKey("request id", str)
# By time.monotonic.
ARRIVED_S = web.RequestKey("arrival", float)
# How long running requests have when the server is told to stop.
DRAIN_TIMEOUT_S = 30.0

# Answers a request whose path it knows; None for any other.
Route = Callable[[web.Request, list[str]], Awaitable[web.StreamResponse | None]]
# Raises the error that a request is refused with, before any route sees it.
Guard = Callable[[web.Request, list[str]], None]
# Is told of every response when its head goes out.
Observer = Callable[[web.Request, web.StreamResponse], None]

_NO_CACHE = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


class Site:
    """One listener. The state here is the listening socket and aiohttp's server, which knows the connections."""

    def __init__(
        self,
        routes: Sequence[Route],
        config: ServerConfig,
        guard: Guard | None = None,
        observers: Sequence[Observer] = (),
        tls: Tls | None = None,
    ) -> None:
        write_headers = HeaderWriter(config.cors, observers)

        def new_request(message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]) -> Request:
            loop = asyncio.get_running_loop()
            request = Request(
                message, payload, protocol, writer, task, loop, client_max_size=config.max_request_size_bytes
            )
            request.write_headers = write_headers
            return request

        handler: Any = Dispatcher(routes, guard)  # is given what new_request makes
        # A client that goes away ends its request's coroutine, which takes the job out of the queue.
        self._server = web.Server(handler, request_factory=new_request, handler_cancellation=True)
        self._tls = tls
        self._refuser = web.Server(_refuse_plain_text)
        self._listener: asyncio.Server | TlsListener | None = None

    async def start(self, address: Address) -> Address:
        """Returns the address with the port that was really taken. Raises OSError when it cannot be had."""
        loop = asyncio.get_running_loop()
        if address.path is not None:
            self._listener = await loop.create_unix_server(self._connection, os.fspath(address.path), backlog=BACKLOG)
            return address
        if address.is_tls:
            assert self._tls is not None, f"{address} needs TLS"
            self._listener = TlsListener(self._tls, self._connection, self._refusing_connection)
            host, port = await self._listener.start(address.host, address.port)
        else:
            self._listener = await loop.create_server(self._connection, address.host, address.port, backlog=BACKLOG)
            host, port, *_ = self._listener.sockets[0].getsockname()
        return Address(address.scheme, host, port)

    async def stop(self) -> None:
        """Closes the port, lets running requests finish, then closes every connection."""
        if self._listener is not None:
            self._listener.close()
        await asyncio.sleep(0)  # what has come in before is begun with
        for server in (self._server, self._refuser):
            server.pre_shutdown()
        await asyncio.gather(self._server.shutdown(DRAIN_TIMEOUT_S), self._refuser.shutdown(FAREWELL_S))

    def _connection(self) -> Connection:
        return _new_connection(self._server)

    def _refusing_connection(self) -> Connection:
        return _new_connection(self._refuser)


class Request(web.Request):
    """A request outside of any `web.Application`, whose router would take 20 us to find the one route that we have."""

    ATTRS = web.Request.ATTRS | {"write_headers"}
    write_headers: HeaderWriter

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        if REQUEST_ID in self:  # a `Refusal` answers what was no request
            self.write_headers(self, response)


class Connection(web.RequestHandler):
    """One client connection. What arrives on it and is no HTTP is answered in our form instead of aiohttp's."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Neither the answer nor the log repeats what the client sent: it may be of any length and hold anything."""
        if request.writer.output_size > 0:
            raise ConnectionError("The response has begun; an error cannot be sent any more.")
        log.info("An undecodable message from %s: %s", request.remote, type(exc).__name__)
        return Refusal(400, error_response(BadRequest("Invalid HTTP message.")).body)


def _new_connection(server: web.Server) -> Connection:
    no_log: Any = None  # turns aiohttp's access log off, which its annotation does not admit
    # A compressed body reaches the handler as it was sent, as its Content-Encoding header says.
    return Connection(server, loop=asyncio.get_running_loop(), access_log=no_log, auto_decompress=False)


class Refusal(web.Response):
    """An answer outside of any application, where no signal is sent before a response begins; it ends the connection.

    Args:
        body: JSON.
    """

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status=status, body=body)
        self.headers.update(
            {"content-type": "application/json", "x-request-id": str(uuid.uuid4()), **_NO_CACHE, "connection": "close"}
        )
        self.force_close()

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        _keep_only_own_headers(self)


class Dispatcher:
    """Gives a request to the first route that knows its path; turns errors into answers."""

    def __init__(self, routes: Sequence[Route], guard: Guard | None) -> None:
        self._routes = routes
        self._guard = guard
        self._request_ids = RequestIds()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        request[REQUEST_ID] = self._request_ids.new()
        request[ARRIVED_S] = time.monotonic()
        if "Expect" in request.headers and (refusal := await _continue(request)) is not None:
            return refusal
        try:
            return await self._answer(request)
        except ServerError as error:
            return error_response(error)
        except web.HTTPRequestEntityTooLarge:
            return too_large()
        except Exception:
            log.exception("An unexpected error while answering %s %s", request.method, request.rel_url.raw_path)
            return error_response(ServerError("Internal server error; the server's log has the cause."))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if (request.content_length or 0) > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
        segments = path_segments(request)
        if self._guard is not None:
            self._guard(request, segments)
        for route in self._routes:
            response = await route(request, segments)
            if response is not None:
                return response
        raise ResourceNotFound


class HeaderWriter:
    """Gives every response, streamed ones included, the headers it shall have, just before it begins."""

    def __init__(self, cors: Cors, observers: Sequence[Observer]) -> None:
        allowed = (
            ("access-control-allow-origin", cors.allowed_origin),
            ("access-control-allow-methods", cors.allowed_methods),
            ("access-control-allow-headers", cors.allowed_headers),
        )
        self._cors = {name: value for name, value in allowed if value}
        self._observers = observers

    def __call__(self, request: web.Request, response: web.StreamResponse) -> None:
        _keep_only_own_headers(response)
        if not response.get(BARE):
            self._complete(request, response)
        for observe in self._observers:
            observe(request, response)

    def _complete(self, request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers["x-request-id"] = request[REQUEST_ID]
        headers.update(_NO_CACHE)
        for name, value in self._cors.items():
            headers.setdefault(name, value)
        if response.status >= 400 or not request.keep_alive:
            response.force_close()
            headers["connection"] = "close"
        else:
            headers["connection"] = "keep-alive"


async def _refuse_plain_text(request: web.BaseRequest) -> web.StreamResponse:
    """Answers plain HTTP on an https port."""
    return Refusal(403, status_response("This TorchServe instance only accepts HTTPS requests").body)


async def _continue(request: web.Request) -> web.Response | None:
    """Answers `Expect: 100-continue`: a client asks so as not to send a body that is too large for nothing."""
    if (request.content_length or 0) > request.client_max_size:
        return too_large()
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
    return None


def _keep_only_own_headers(response: web.StreamResponse) -> None:
    """Takes back what aiohttp adds by itself and TorchServe's clients do not get."""
    del response.headers["Server"]
    del response.headers["Date"]
    if response.get(NO_CONTENT_TYPE):
        response.headers.popall("Content-Type", None)
