"""One gRPC port."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

import grpc

from model_server.config.addresses import Address
from model_server.config.grpc import GrpcPort


class GrpcListener:
    """The state here is gRPC's server.

    Args:
        handlers: the services, as `rpc_handler` makes them.
        most_bytes: of a message from a client.
        credentials: for TLS; None: plain text.
    """

    def __init__(
        self,
        port: GrpcPort,
        handlers: Sequence[Any],
        most_bytes: int,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._port = port
        self._credentials = credentials
        self._server = grpc.aio.server(options=_options(port, most_bytes))
        self._server.add_generic_rpc_handlers(tuple(handlers))

    async def start(self) -> Address:
        """Returns the address with the port that was really taken. Raises OSError when it cannot be had."""
        address = self._port.address
        try:
            if self._credentials is None:
                taken = self._server.add_insecure_port(address.authority)
            else:
                taken = self._server.add_secure_port(address.authority, self._credentials)
        except RuntimeError as error:
            raise OSError(f"{address}: {_why_not(address) or error}") from error
        await self._server.start()
        return Address(address.scheme, address.host, taken)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, lets running ones finish within `grace_s`, then cancels them."""
        await self._server.stop(grace_s)


def _options(port: GrpcPort, most_bytes: int) -> list[tuple[str, int]]:
    options = {
        "grpc.max_receive_message_length": most_bytes,
        # How long an answer may be is decided elsewhere.
        "grpc.max_send_message_length": -1,
        # With it a second server would get a share of the connections instead of an error.
        "grpc.so_reuseport": 0,
        "grpc.max_connection_age_ms": port.max_connection_age_ms,
        "grpc.max_connection_age_grace_ms": port.max_connection_age_grace_ms,
    }
    return [(name, value) for name, value in options.items() if value is not None]


def _why_not(address: Address) -> str | None:
    """What the operating system says to an address that gRPC could not have; gRPC itself does not tell."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(where)
    except OSError as error:
        return error.strerror or os.strerror(error.errno or 0)
    return None
