"""Reading tar.gz archives: a stream, so each entry is judged when its header comes by."""

import gzip
import stat
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from archiver.damage import damage_reported, damaged
from archiver.entries import CHUNK_BYTES, Entry, EntryChecker, ExtractLimits, entry_name, is_root, refusal
from archiver.errors import InvalidArchive

_MAX_TRAILER_BYTES = CHUNK_BYTES  # tar pads its end with zeros to a record, 10 KiB unless told otherwise
_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)


class _BoundedReads:
    """tarfile reads an extended header whole, however long it claims to be; through this it cannot.

    Content is read in chunks of at most CHUNK_BYTES, so the bound never touches it.
    """

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size_bytes: int) -> bytes:
        if size_bytes > CHUNK_BYTES:
            raise InvalidArchive(f"A tar header claims {size_bytes:,} bytes for itself; {CHUNK_BYTES:,} are allowed.")
        return self._stream.read(size_bytes)


class TarGzArchive:
    """An opened tar.gz file; takes over `file` and closes it."""

    format = "tar.gz"

    def __init__(self, file: BinaryIO, file_bytes: int, limits: ExtractLimits) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._limits = limits

    def files(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        checker = EntryChecker(self._limits, self._file_bytes)
        self._file.seek(0)
        with damage_reported("tar.gz"), gzip.GzipFile(fileobj=self._file) as stream, _open_tar(stream) as tar:
            while (member := tar.next()) is not None:
                if member.offset == 0 and is_root(member.name) and member.isdir():
                    continue
                entry = _entry(member)
                checker.add(entry)
                yield entry, _chunks(tar, member)
            _expect_end(stream)

    def __enter__(self) -> "TarGzArchive":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _open_tar(stream: gzip.GzipFile) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast(BinaryIO, _BoundedReads(stream)), mode="r:")


def _entry(member: tarfile.TarInfo) -> Entry:
    name = entry_name(member.name)
    if member.issparse() or not (member.isdir() or member.type in _FILE_TYPES):
        raise refusal(member.name, "is a link, a device or a sparse file, not a plain file or a folder")
    if member.mode & (stat.S_ISUID | stat.S_ISGID) and not member.isdir():
        raise refusal(member.name, "carries a set-user or set-group bit")
    if member.size < 0:
        raise damaged("tar.gz", f"{name} has a negative size")
    return Entry(name, 0 if member.isdir() else member.size, member.isdir(), "gzip")


def _chunks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = None if member.isdir() else tar.extractfile(member)
    if stream is None:
        return
    with damage_reported("tar.gz"), stream:
        left_bytes = member.size
        while chunk := stream.read(min(CHUNK_BYTES, left_bytes)):
            left_bytes -= len(chunk)
            yield chunk
        if left_bytes:
            raise EOFError(f"{member.name} ends {left_bytes} bytes early")


def _expect_end(stream: gzip.GzipFile) -> None:
    """tarfile takes a broken header for the end; behind the real end there is only padding, in whole blocks."""
    trailer = stream.read(_MAX_TRAILER_BYTES)
    if any(trailer) or stream.read(1) or stream.tell() % tarfile.BLOCKSIZE:
        raise damaged("tar.gz", "a header in it is broken, or data follows its end")
