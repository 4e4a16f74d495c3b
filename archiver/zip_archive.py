"""Reading ZIP archives: every entry is judged before the first byte of content is handed out."""

import stat
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from archiver.damage import damage_reported
from archiver.entries import CHUNK_BYTES, Entry, EntryChecker, ExtractLimits, entry_name, refusal
from archiver.errors import InvalidArchive
from archiver.zip_layout import check_directory, check_local_headers

_COMPRESSIONS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000
_PATCH_FLAG = 0x20
_PERMITTED_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: written on a system without Unix modes


class ZipArchive:
    """An opened ZIP file; takes over `file` and closes it."""

    format = "zip"

    def __init__(self, file: BinaryIO, file_bytes: int, limits: ExtractLimits) -> None:
        self._file = file
        with damage_reported("ZIP"):
            directory = check_directory(file, file_bytes, limits)
            if not directory.entries:
                raise InvalidArchive("The ZIP archive holds no files.")
            self._zip = zipfile.ZipFile(file)
            infos = self._zip.infolist()
            self._members = _checked_members(infos, EntryChecker(limits, file_bytes))
            check_local_headers(file, infos, directory)

    def files(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        for info, entry in self._members:
            yield entry, iter(()) if entry.is_directory else self._chunks(info)

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        with damage_reported("ZIP"), self._zip.open(info) as stream:
            left_bytes = info.file_size
            while chunk := stream.read(CHUNK_BYTES):
                left_bytes -= len(chunk)
                yield chunk
            if left_bytes:
                raise EOFError(f"{info.filename} ends {left_bytes} bytes early")

    def __enter__(self) -> "ZipArchive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()


def _checked_members(infos: list[zipfile.ZipInfo], checker: EntryChecker) -> list[tuple[zipfile.ZipInfo, Entry]]:
    members = []
    for info in sorted(infos, key=lambda info: info.header_offset):
        entry = _entry(info)
        checker.add(entry)
        members.append((info, entry))
    return members


def _entry(info: zipfile.ZipInfo) -> Entry:
    # zipfile cuts `filename` at a NUL; `orig_filename` is what the archive says.
    name = entry_name(info.orig_filename)
    if problem := _kind_problem(info):
        raise refusal(info.orig_filename, problem)
    return Entry(name, info.file_size, info.is_dir(), _COMPRESSIONS[info.compress_type], info.compress_size)


def _kind_problem(info: zipfile.ZipInfo) -> str | None:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in _PERMITTED_TYPES:
        return "is a link or a device, not a file or a folder"
    if mode & (stat.S_ISUID | stat.S_ISGID) and not info.is_dir():
        return "carries a set-user or set-group bit"
    if info.flag_bits & _ENCRYPTED_FLAGS:
        return "is encrypted"
    if info.compress_type not in _COMPRESSIONS or info.flag_bits & _PATCH_FLAG:
        return f"uses compression method {info.compress_type}; only stored (0) and deflated (8) are read"
    if info.is_dir() and info.file_size:
        return "is a folder with content"
    return None
