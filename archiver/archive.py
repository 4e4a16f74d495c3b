"""Opening an archive by what it contains; its name decides nothing."""

import stat
from collections.abc import Iterator
from pathlib import Path

from archiver.entries import CHUNK_BYTES, DEFAULT_LIMITS, Archive, Entry, ExtractLimits
from archiver.errors import InvalidArchive
from archiver.tar_archive import TarGzArchive
from archiver.zip_archive import ZipArchive

_HEAD_BYTES = 512
_GZIP_MAGIC = b"\x1f\x8b"
_ZIP_MAGICS = (b"PK\3\4", b"PK\5\6")
_KNOWN_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the real file with `git lfs pull`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\xfd7zXZ\x00", "an xz-compressed file"),
    (b"BZh", "a bzip2-compressed file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard-compressed file"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "an executable or a shared library"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file"),
)


class FolderArchive:
    """A model folder read as if it were an archive. The folder is the operator's own: links in it are followed."""

    format = "folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        for path in sorted(self._folder.rglob("*")):
            if path.is_file():
                yield Entry(path.relative_to(self._folder).as_posix(), path.stat().st_size), _file_chunks(path)

    def __enter__(self) -> "FolderArchive":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is kept open."""


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def open_archive(path: Path, limits: ExtractLimits = DEFAULT_LIMITS) -> Archive:
    """Opens a ZIP or tar.gz file.

    Raises:
        InvalidArchive: the file is neither, is damaged, or a ZIP holds an entry that is refused.
        OSError: the file cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArchive(f"{path.name} is {'a folder' if path.is_dir() else 'not a regular file'}, not an archive.")
    file = path.open("rb")
    try:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        if head.startswith(_ZIP_MAGICS):
            return ZipArchive(file, status.st_size, limits)
        if head.startswith(_GZIP_MAGIC):
            return TarGzArchive(file, status.st_size, limits)
        raise InvalidArchive(f"{path.name} is no ZIP and no tar.gz: it looks like {_description(head)}.")
    except BaseException:
        file.close()
        raise


def _description(head: bytes) -> str:
    if not head:
        return "an empty file (0 bytes)"
    for magic, description in _KNOWN_FILES:
        if head.startswith(magic):
            return description
    if head[257:262] == b"ustar":
        return "an uncompressed tar archive: compress it with gzip"
    if head[8:10] == b'{"':
        return "a safetensors file: pack it with `model-archiver --serialized-file`"
    return _text_description(head)


def _text_description(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page, perhaps the error page of a download"
    return "binary data" if b"\0" in head or not _is_utf8(head) else "a text file"


def _is_utf8(head: bytes) -> bool:
    # The head may end in the middle of a character of up to four bytes.
    return any(_decodes(head[: len(head) - cut]) for cut in range(4))


def _decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
