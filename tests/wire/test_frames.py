"""Frames against bytes written down by hand from the layout in the module's docstring."""

import struct
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.wire.frames import (
    MAX_BLOBS,
    MAX_BODY_BYTES,
    MAX_META_BYTES,
    Frame,
    FrameDecoder,
    WireError,
    decode_body,
    decode_fixed,
    encode_frame,
)

# magic, kind 5, two blobs, two bytes of meta, 16 + 2 + 3 + 0 bytes in all; the table; meta; the blobs
BY_HAND = bytes.fromhex("a7 05 00000002 00000002 0000000000000015 0000000000000003 0000000000000000") + b"{}abc"


def joined(kind: int, meta: bytes, blobs: Iterable[bytes] = ()) -> bytes:
    return b"".join(encode_frame(kind, meta, list(blobs)))


def head(magic: int = 0xA7, kind: int = 1, blobs: int = 0, meta: int = 0, body: int = 0) -> bytes:
    return struct.pack(">BBIIQ", magic, kind, blobs, meta, body)


def fed(portions: Iterable[bytes]) -> list[Frame]:
    decoder = FrameDecoder()
    return [frame for portion in portions for frame in decoder.feed(portion)]


def test_layout_is_the_documented_one() -> None:
    assert joined(5, b"{}", [b"abc", b""]) == BY_HAND
    assert fed([BY_HAND]) == [Frame(5, b"{}", [b"abc", b""])]


def test_blobs_are_not_copied_when_they_are_encoded() -> None:
    blob = bytearray(b"x" * 1000)
    assert encode_frame(1, b"", [blob])[1] is blob


@pytest.mark.parametrize("kind_of_buffer", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_can_be_a_blob(kind_of_buffer: type) -> None:
    assert fed([b"".join(encode_frame(1, b"m", [kind_of_buffer(b"data")]))]) == [Frame(1, b"m", [b"data"])]


def test_decoded_blobs_do_not_share_memory_with_the_buffer() -> None:
    source = bytearray(BY_HAND)
    (frame,) = FrameDecoder().feed(source)
    source[-1] = 0
    assert frame.blobs[0] == b"abc"


@pytest.mark.parametrize("cut", range(len(BY_HAND) + 1))
def test_frame_cut_anywhere_arrives_whole_with_its_last_byte(cut: int) -> None:
    decoder = FrameDecoder()
    early = list(decoder.feed(BY_HAND[:cut]))
    late = list(decoder.feed(BY_HAND[cut:]))
    expected = [Frame(5, b"{}", [b"abc", b""])]
    assert (early, late) == ((expected, []) if cut == len(BY_HAND) else ([], expected))


frames = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20), st.lists(st.binary(max_size=30), max_size=4)))


@given(frames=frames, data=st.data())
def test_any_frames_in_any_portions(frames: list[tuple[int, bytes, list[bytes]]], data: st.DataObject) -> None:
    stream = b"".join(joined(*frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    portions = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert fed(portions) == [Frame(*frame) for frame in frames]


def test_many_blobs() -> None:
    blobs = [bytes([index % 256]) * (index % 3) for index in range(20_000)]
    assert fed([joined(1, b"", blobs)])[0].blobs == blobs


def test_frames_before_garbage_are_delivered() -> None:
    received = []
    with pytest.raises(WireError, match="0x58"):
        for frame in FrameDecoder().feed(BY_HAND + b"X" * 18):
            received.append(frame)
    assert received == [Frame(5, b"{}", [b"abc", b""])]


@pytest.mark.parametrize(
    ("fixed", "complaint"),
    [
        (head(magic=0x50), "starts with byte 0x50"),
        (b"HTTP/1.1 200 OK\r\n\r\n"[:18], "starts with byte 0x48"),
        (head(blobs=MAX_BLOBS + 1, body=MAX_BODY_BYTES), "too large"),
        (head(meta=MAX_META_BYTES + 1, body=MAX_META_BYTES + 1), "too large"),
        (head(body=MAX_BODY_BYTES + 1), "too large"),
        (head(blobs=0xFFFFFFFF, meta=0xFFFFFFFF, body=0xFFFFFFFFFFFFFFFF), "too large"),
        (head(blobs=2, body=15), "15 bytes cannot hold 2 blobs"),
        (head(meta=4, body=3), "3 bytes cannot hold 0 blobs and 4 bytes of meta"),
    ],
)
def test_impossible_lengths_are_refused_with_the_fixed_part(fixed: bytes, complaint: str) -> None:
    with pytest.raises(WireError, match=complaint):
        decode_fixed(fixed)
    with pytest.raises(WireError, match=complaint):
        list(FrameDecoder().feed(fixed))


def test_limits_themselves_are_allowed() -> None:
    fixed = decode_fixed(head(blobs=MAX_BLOBS, meta=MAX_META_BYTES, body=MAX_BODY_BYTES))
    assert (fixed.blob_count, fixed.meta_length, fixed.body_length) == (1 << 20, 64 << 20, 1 << 40)


@pytest.mark.parametrize("claimed", [head(body=MAX_BODY_BYTES), head(blobs=MAX_BLOBS, body=MAX_BODY_BYTES)])
def test_a_claimed_length_allocates_nothing(claimed: bytes) -> None:
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        assert list(decoder.feed(claimed + b"few bytes")) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sizes", [(2, 2), (4, 2), (2**64 - 1, 6), (2**63, 2**63)])
def test_blob_lengths_must_add_up_to_the_body(sizes: tuple[int, int]) -> None:
    body = struct.pack(">QQ", *sizes) + b"abcde"
    with pytest.raises(WireError, match=f"add up to {sum(sizes)} bytes, the frame holds 5"):
        decode_body(decode_fixed(head(blobs=2, body=len(body))), body)


@given(st.binary(max_size=200))
def test_garbage_never_raises_anything_but_wire_errors(garbage: bytes) -> None:
    for stream in (garbage, b"\xa7" + garbage):
        try:
            list(FrameDecoder().feed(stream))
        except WireError:
            pass
