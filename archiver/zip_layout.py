"""Checks of a ZIP file's skeleton, made before anything in it is trusted (PKWARE APPNOTE 6.3.10, section 4.3).

`zipfile` is lenient where an attacker wants it to be: it skips data in front of the archive, reads directories of any
length, and lets entries overlap. Here the file has to be exactly: entries back to back, directory, end record.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO
from zipfile import ZipInfo

from archiver.damage import damaged
from archiver.entries import ExtractLimits, check_count, refusal
from archiver.errors import InvalidArchive

MAX_DIRECTORY_BYTES = 32 * 2**20

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_LOCATOR = struct.Struct("<4sLQL")
_MAX_COMMENT_BYTES = 0xFFFF
_IN_ZIP64_FIELD = 0xFFFFFFFF
_HAS_DATA_DESCRIPTOR = 0x8
_MAX_DATA_DESCRIPTOR_BYTES = 24


@dataclass(frozen=True)
class Directory:
    """Where the central directory lies and how many entries the end record promises."""

    offset: int
    size_bytes: int
    entries: int


def check_directory(file: BinaryIO, file_bytes: int, limits: ExtractLimits) -> Directory:
    """Finds the central directory and counts its entries before anything allocates for them."""
    directory = _find_directory(file, file_bytes)
    check_count(directory.entries, limits)
    if directory.size_bytes > MAX_DIRECTORY_BYTES:
        raise InvalidArchive(f"The archive's directory is longer than the allowed {MAX_DIRECTORY_BYTES:,} bytes.")
    file.seek(directory.offset)
    if _count_headers(file.read(directory.size_bytes)) != directory.entries:
        raise _damaged("its directory does not hold the entries it promises")
    return directory


def _find_directory(file: BinaryIO, file_bytes: int) -> Directory:
    tail_start = max(0, file_bytes - _END.size - _MAX_COMMENT_BYTES - _END64.size - _END64_LOCATOR.size)
    file.seek(tail_start)
    tail = file.read()
    position = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    if position < 0:
        raise _damaged("its end record is missing")
    _, disk, _, disk_entries, entries, size, offset, comment_bytes = _END.unpack_from(tail, position)
    if position + _END.size + comment_bytes != len(tail):
        raise _damaged("data follows its end record")
    if disk or disk_entries != entries:
        raise InvalidArchive("The archive is one part of a split ZIP. Pack it as a single file.")
    end, directory = tail_start + position, Directory(offset, size, entries)
    locator = position - _END64_LOCATOR.size
    if locator >= _END64.size and tail.startswith(b"PK\6\7", locator):
        end, directory = _zip64_directory(tail, tail_start, locator)
    if directory.offset + directory.size_bytes != end:
        raise _damaged("its directory is not where its end record says, or data was put in front of it")
    return directory


def _zip64_directory(tail: bytes, tail_start: int, locator: int) -> tuple[int, Directory]:
    position = locator - _END64.size
    signature, _, _, _, _, _, _, entries, size, offset = _END64.unpack_from(tail, position)
    _, _, claimed_position, _ = _END64_LOCATOR.unpack_from(tail, locator)
    if signature != b"PK\6\6" or claimed_position != tail_start + position:
        raise _damaged("its ZIP64 end record is missing")
    return claimed_position, Directory(offset, size, entries)


def _count_headers(directory: bytes) -> int:
    count = position = 0
    while position < len(directory):
        fields = _CENTRAL_HEADER.unpack_from(directory, position)
        if fields[0] != b"PK\1\2":
            raise _damaged("a directory record has a wrong signature")
        position += _CENTRAL_HEADER.size + sum(fields[10:13])  # name, extra field and comment follow the record
        count += 1
    return count


def check_local_headers(file: BinaryIO, infos: list[ZipInfo], directory: Directory) -> None:
    """Raises InvalidArchive unless entries lie back to back from offset 0 and repeat what the directory says."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    starts = [info.header_offset for info in ordered] + [directory.offset]
    if starts[0] != 0:
        raise _damaged("its first entry does not lie at its beginning")
    for info, (_, following) in zip(ordered, pairwise(starts), strict=True):
        slack = following - _end_of_data(file, info)
        if not 0 <= slack <= (_MAX_DATA_DESCRIPTOR_BYTES if info.flag_bits & _HAS_DATA_DESCRIPTOR else 0):
            raise refusal(info.orig_filename, "overlaps another entry, or unlisted data follows it")


def _end_of_data(file: BinaryIO, info: ZipInfo) -> int:
    file.seek(info.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    signature, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = header
    agrees = signature == b"PK\3\4" and method == info.compress_type and flags == info.flag_bits
    if not flags & _HAS_DATA_DESCRIPTOR:
        agrees &= crc == info.CRC
        agrees &= packed in (info.compress_size, _IN_ZIP64_FIELD) and size in (info.file_size, _IN_ZIP64_FIELD)
    if not agrees:
        raise refusal(info.orig_filename, "is described differently in the directory and in front of its data")
    data_offset: int = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    return data_offset + info.compress_size


def _damaged(cause: str) -> InvalidArchive:
    return damaged("ZIP", cause)
