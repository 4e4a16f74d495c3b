"""The blocking side of the socketpair."""

from __future__ import annotations

import socket
from contextlib import suppress
from io import BufferedReader
from typing import cast

from model_server.wire.frames import FIXED, Frame, decode_fixed, decode_lengths
from model_server.wire.messages import Message, decode, encode

_BUFFER_BYTES = 1 << 18
_LARGE_BYTES = 1 << 16
# Below this, joining buffers costs less than another system call.
_JOIN_BYTES = 1 << 16


class Connection:
    """Messages over a connected stream socket. Not thread-safe: one thread sends, one receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = cast(BufferedReader, sock.makefile("rb", buffering=_BUFFER_BYTES))

    def receive(self) -> Message | None:
        """The next message; None when the frontend has closed its end."""
        head = self._reader.read(FIXED.size)
        if len(head) < FIXED.size:
            return None
        fixed = decode_fixed(head)
        before = self._reader.read(fixed.before_blobs)
        if len(before) < fixed.before_blobs:
            return None
        meta, sizes = decode_lengths(fixed, before)
        blobs = [self._read(size) for size in sizes]  # one by one: none is copied once more
        if sum(map(len, blobs)) < sum(sizes):
            return None
        return decode(Frame(fixed.kind, meta, blobs))

    def _read(self, size: int) -> bytes | bytearray:
        """A large blob as a handler is given it, so that it need not be copied; less than `size` at the end."""
        if size < _LARGE_BYTES:
            return self._reader.read(size)
        blob = bytearray(size)
        del blob[self._reader.readinto(blob) :]
        return blob

    def send(self, message: Message) -> None:
        """Raises OSError when the frontend is gone."""
        buffers = encode(message)
        if sum(map(len, buffers)) <= _JOIN_BYTES:
            self._sock.sendall(b"".join(buffers))
            return
        for buffer in buffers:
            self._sock.sendall(buffer)

    def close(self) -> None:
        """Lets go of the socket, which whoever made it closes. A thread that is reading finds the end."""
        with suppress(OSError):  # the frontend has closed it already
            self._sock.shutdown(socket.SHUT_RD)
        self._reader.close()
