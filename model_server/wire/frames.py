"""Frames: bytes on the socketpair between frontend and worker, without I/O.

A frame is a small JSON document and any number of binary blobs. All integers are big-endian:

    magic u8 | kind u8 | blob count u32 | meta length u32 | body length u64     FIXED, 18 bytes
    blob length u64 …                                                          one per blob
    meta                                                                       UTF-8 JSON
    blobs …                                                                    as they are

`body length` counts everything after the fixed part. Lengths are checked against the limits before anything is
allocated; nothing is ever unpickled.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

MAGIC = 0xA7
FIXED = struct.Struct("!BBIIQ")
MAX_BLOBS = 1 << 20
MAX_META_BYTES = 64 << 20
MAX_BODY_BYTES = 1 << 40

Buffer = bytes | bytearray | memoryview


class WireError(Exception):
    """The other side sent bytes that are no frame; the connection is of no further use."""


class Frame(NamedTuple):
    kind: int
    meta: bytes
    blobs: Sequence[Buffer]


def encode_frame(kind: int, meta: bytes, blobs: Sequence[Buffer] = ()) -> list[Buffer]:
    """Buffers to be written one after the other; the blobs are not copied."""
    sizes = [len(blob) for blob in blobs]
    table = _table(len(sizes)).pack(*sizes)
    body_length = len(table) + len(meta) + sum(sizes)
    return [FIXED.pack(MAGIC, kind, len(sizes), len(meta), body_length) + table + meta, *blobs]


@lru_cache(maxsize=512)
def _table(blob_count: int) -> struct.Struct:
    """Where the lengths of the blobs stand."""
    return struct.Struct(f"!{blob_count}Q")


class FixedPart(NamedTuple):
    """The first 18 bytes of a frame, checked."""

    kind: int
    blob_count: int
    meta_length: int
    body_length: int

    @property
    def before_blobs(self) -> int:
        """Bytes of the body before the first blob."""
        return 8 * self.blob_count + self.meta_length


def decode_fixed(data: Buffer, start: int = 0) -> FixedPart:
    magic, kind, blob_count, meta_length, body_length = FIXED.unpack_from(data, start)
    if magic != MAGIC:
        raise WireError(f"frame starts with byte {magic:#x} instead of {MAGIC:#x}")
    if blob_count > MAX_BLOBS or meta_length > MAX_META_BYTES or body_length > MAX_BODY_BYTES:
        raise WireError(f"frame too large: {blob_count} blobs, {meta_length} bytes of meta, {body_length} bytes in all")
    if body_length < 8 * blob_count + meta_length:
        raise WireError(f"{body_length} bytes cannot hold {blob_count} blobs and {meta_length} bytes of meta")
    return FixedPart(kind, blob_count, meta_length, body_length)


def decode_lengths(fixed: FixedPart, data: Buffer) -> tuple[bytes, Sequence[int]]:
    """Meta and the lengths of the blobs, from what stands before them: `fixed.before_blobs` bytes, or more."""
    sizes = _table(fixed.blob_count).unpack_from(data)
    if fixed.before_blobs + sum(sizes) != fixed.body_length:
        room = fixed.body_length - fixed.before_blobs
        raise WireError(f"blob lengths add up to {sum(sizes)} bytes, the frame holds {room}")
    return bytes(data[8 * fixed.blob_count : fixed.before_blobs]), sizes


def decode_body(fixed: FixedPart, body: Buffer) -> Frame:
    """Body of exactly `fixed.body_length` bytes, best a memoryview (slices of it are copied once) -> frame."""
    meta, sizes = decode_lengths(fixed, body)
    start = fixed.before_blobs
    blobs: list[Buffer] = []
    for size in sizes:
        blobs.append(bytes(body[start : start + size]))
        start += size
    return Frame(fixed.kind, meta, blobs)


class FrameDecoder:
    """Bytes in any portions -> frames.

    The state here is the buffer of bytes not yet consumed and the fixed part of the frame they belong to.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fixed: FixedPart | None = None

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """Yields every frame that is complete with `data`; raises `WireError` on garbage."""
        # What comes whole, as small frames do, is not copied together first.
        source: Buffer = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        start = 0
        while True:
            if self._fixed is None:
                if len(source) - start < FIXED.size:
                    break
                self._fixed = decode_fixed(source, start)
                start += FIXED.size
            end = start + self._fixed.body_length
            if len(source) < end:
                break
            with memoryview(source) as whole, whole[start:end] as body:
                frame = decode_body(self._fixed, body)
            self._fixed, start = None, end
            yield frame
        if source is not self._buffer:
            self._buffer += memoryview(data)[start:]
        else:
            # Once per portion, not once per frame: deleting from the front moves the rest.
            del self._buffer[:start]
