"""One line per answered request, in TorchServe's form: `/127.0.0.1:37792 "POST /predictions/m HTTP/1.1" 200 29`.

No header and no body is ever in it: a token cannot get there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import HttpVersion, web

from model_server.api.sites import ARRIVED_S, REQUEST_ID
from model_server.logs import ACCESS_LOG

# A client on a unix socket has no address; TorchServe writes this.
_LOCAL = "127.0.0.1"


class AccessLog:
    """Lines of responses and calls.

    Args:
        write_later: takes what makes a line: logger, message from seconds since the epoch and arguments, the arguments,
            the request's id, the rough length.
    """

    def __init__(
        self, write_later: Callable[[str, Callable[..., str], tuple[Any, ...], str | None, int], None]
    ) -> None:
        self._write_later = write_later

    def __call__(self, request: web.Request, response: web.StreamResponse) -> None:
        """An observer of a `Site`: the head of a response goes out."""
        now_s = time.monotonic()
        duration_ms = int((now_s - request.get(ARRIVED_S, now_s)) * 1000)
        path = request.raw_path
        seen = request.protocol.peername, request.method, path, request.version, response.status, duration_ms
        self._write_later(ACCESS_LOG, _response_text, seen, request.get(REQUEST_ID), len(path))

    def grpc_call(self, peer: str, method: str, code: int, duration_s: float, request_id: str | None = None) -> None:
        """The end of a gRPC call.

        Args:
            peer: as gRPC names it: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:`.
            method: `/package.Service/Method`, as gRPC names it; the first slash may be missing.
            code: number of the status.
        """
        family, _, address = unquote(peer).partition(":")
        client = f"/{address}" if family in ("ipv4", "ipv6") else _LOCAL
        seen = client, method.removeprefix("/"), code, int(duration_s * 1000)
        self._write_later(ACCESS_LOG, _call_text, seen, request_id, len(method))


def _response_text(
    created_s: float, peername: Any, method: str, path: str, version: HttpVersion, status: int, duration_ms: int
) -> str:
    return f'{_client(peername)} "{method} {path} HTTP/{version.major}.{version.minor}" {status} {duration_ms}'


def _call_text(created_s: float, client: str, method: str, code: int, duration_ms: int) -> str:
    return f'{client} "gRPC {method} HTTP/2.0" {code} {duration_ms}'


def _client(peername: Any) -> str:
    """`/host:port`, an IPv6 address in brackets."""
    if not isinstance(peername, tuple):
        return _LOCAL
    host, port, *_ = peername
    return f"/[{host}]:{port}" if ":" in host else f"/{host}:{port}"
