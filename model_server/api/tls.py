"""TLS of the listeners: the certificate that new connections get, and https ports."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable

from model_server.config.errors import ConfigError
from model_server.config.tls import KeyPair, TlsConfig, load_key_pair

log = logging.getLogger(__name__)

# How long a client may take for its first byte, and then for the handshake.
GREETING_S = 10.0
# How long a client may take to agree that a connection is over.
FAREWELL_S = 2.0

_HANDSHAKE = 0x16  # first byte of every TLS connection, RFC 8446 section 5.1
# Connections that wait to be accepted. With 100 of them, 1 in 8 of 2,000 clients that came at once waited a second.
BACKLOG = 4096
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Tls:
    """The state here is the current key pair and the context that has it; `reload` replaces both.

    Raises:
        InvalidConfiguration: the pair is not usable.
    """

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self.key_pair = load_key_pair(config)
        self.context = _new_context(self.key_pair)
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> None:
        """Takes a renewed certificate for new connections; one that is not usable is logged, and the old one stays."""
        if not self._config.is_self_signed:
            async with self._one_at_a_time:  # or what was read first could come last
                await self._reload()

    async def _reload(self) -> None:
        try:
            pair = await asyncio.to_thread(load_key_pair, self._config)
            # A context keeps one pair for each kind of key: an old RSA pair would live on beside a new EC one.
            context = _new_context(pair)
        except (ConfigError, OSError) as error:
            log.error("The TLS certificate stays as it was. %s", error)
            return
        if pair != self.key_pair:
            self.key_pair, self.context = pair, context
            log.info("New connections get the renewed TLS certificate.")


def _new_context(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    pair.load_into(context)
    return context


class TlsListener:
    """An https port. The state here is the listening sockets and the tasks that accept from them.

    asyncio's own servers cannot answer a client that speaks plain HTTP, so the first byte is looked at before the
    connection is made.

    Args:
        encrypted: makes the protocol of a TLS connection.
        plain: makes the protocol that turns away who speaks anything else.
    """

    def __init__(
        self, tls: Tls, encrypted: Callable[[], asyncio.Protocol], plain: Callable[[], asyncio.Protocol]
    ) -> None:
        self._tls = tls
        self._encrypted = encrypted
        self._plain = plain
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Returns host and port as they were really taken. Raises OSError when they cannot be had."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, ip in dict.fromkeys((each[0], str(each[4][0])) for each in found):
                listening = socket.create_server((ip, port), family=family, backlog=BACKLOG)
                listening.setblocking(False)
                self._sockets.append(listening)
                port = listening.getsockname()[1]  # of any free port, the same for IPv4 and IPv6
        except OSError:
            self.close()
            raise
        for listening in self._sockets:
            self._keep(asyncio.create_task(self._accept(listening), name="https connections"))
        return self._sockets[0].getsockname()[0], port

    def close(self) -> None:
        """No new connections. Those that are there stay; those that are being greeted do not."""
        for task in self._tasks:
            task.cancel()
        for listening in self._sockets:
            listening.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(listening)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    log.error("A connection cannot be accepted: %s", error.strerror)
                await asyncio.sleep(1 if error.errno in _NO_ROOM else 0)
                continue
            self._keep(asyncio.create_task(self._greet(connection), name="TLS handshake"))

    async def _greet(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection.setblocking(False)
            async with asyncio.timeout(GREETING_S):
                first = await _first_byte(connection)
            if first == _HANDSHAKE:
                await loop.connect_accepted_socket(
                    self._encrypted,
                    connection,
                    ssl=self._tls.context,
                    ssl_handshake_timeout=GREETING_S,
                    ssl_shutdown_timeout=FAREWELL_S,
                )
            elif first is not None:
                await loop.connect_accepted_socket(self._plain, connection)
            else:
                connection.close()
        except OSError as error:  # what ssl and timeouts raise is one, too
            connection.close()
            log.debug("No TLS connection: %s", error)
        except asyncio.CancelledError:
            connection.close()
            raise


async def _first_byte(connection: socket.socket) -> int | None:
    """What the client sends first, still there to be read; None when it went away."""
    loop = asyncio.get_running_loop()
    is_readable = asyncio.Event()
    loop.add_reader(connection, is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(connection)
    first = connection.recv(1, socket.MSG_PEEK)
    return first[0] if first else None
