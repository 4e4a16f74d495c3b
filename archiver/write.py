"""Writing archives the reproducible way: sorted entries, fixed times and permissions, contents streamed.

Every writer fills a path that does not exist yet; `publish` then gives the result its name in one step, so that
nobody ever sees half an archive.
"""

import contextlib
import errno
import gzip
import io
import os
import secrets
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, BinaryIO

from archiver.collect import SourceFile
from archiver.entries import CHUNK_BYTES
from archiver.manifest import MANIFEST_NAME

Advance = Callable[[int], object]

EARLIEST_ENTRY_TIME_S = 315_532_800  # 1980-01-01 UTC, the first moment a ZIP file can express
_LATEST_ENTRY_TIME_S = 4_354_819_198  # 2107-12-31 23:59:58 UTC, the last one
_FILE_MODE = 0o644
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_COMPRESSION_LEVEL = 6

# What does not get smaller: deflating it costs minutes for nothing.
_WEIGHTS = {".pt", ".pth", ".bin", ".safetensors", ".onnx", ".onnx_data", ".so", ".pt2", ".npz", ".h5", ".gguf"}
_ARCHIVES = {".mar", ".zip", ".whl", ".jar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
_MEDIA = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".heic", ".mp3", ".ogg", ".flac", ".mp4", ".mkv", ".webm"}
_STORED_SUFFIXES = _WEIGHTS | _ARCHIVES | _MEDIA


@dataclass(frozen=True)
class Contents:
    """What goes into an archive: the files in order, the manifest behind them, one time for all entries."""

    top_folder: str
    files: list[SourceFile]
    manifest_json: bytes
    entry_time_s: int


Writer = Callable[[Path, Contents, Advance], None]


def write_zip(target: Path, contents: Contents, advance: Advance) -> None:
    """A ZIP in which text is deflated and everything that is compressed already is stored."""
    _write_zip(target, contents, advance, _compression)


def write_stored_zip(target: Path, contents: Contents, advance: Advance) -> None:
    """A ZIP without any compression."""
    _write_zip(target, contents, advance, lambda name: zipfile.ZIP_STORED)


def _compression(name: str) -> int:
    return zipfile.ZIP_STORED if Path(name).suffix.lower() in _STORED_SUFFIXES else zipfile.ZIP_DEFLATED


def _write_zip(target: Path, contents: Contents, advance: Advance, compression: Callable[[str], int]) -> None:
    with target.open("xb") as file, zipfile.ZipFile(file, "w", compresslevel=_COMPRESSION_LEVEL) as archive:
        for name, size_bytes, stream in _streams(contents):
            info = zipfile.ZipInfo(name, _zip_time(contents.entry_time_s))
            info.compress_type = compression(name)
            info.create_system = 3  # Unix, on every platform
            info.external_attr = (stat.S_IFREG | _FILE_MODE) << 16
            info.file_size = size_bytes  # zipfile chooses ZIP64 by it
            with archive.open(info, "w") as entry:
                _copy(stream, entry, advance)


def _zip_time(time_s: int) -> tuple[int, int, int, int, int, int]:
    moment = datetime.fromtimestamp(min(max(time_s, EARLIEST_ENTRY_TIME_S), _LATEST_ENTRY_TIME_S), UTC)
    return moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second


def write_tgz(target: Path, contents: Contents, advance: Advance) -> None:
    """A tar.gz whose entries all lie in one folder named after the model."""
    with (
        target.open("xb") as file,
        gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, file, mtime=0) as compressed,
        tarfile.TarFile(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK_BYTES) as archive,
    ):
        for name, size_bytes, stream in _streams(contents):
            info = tarfile.TarInfo(f"{contents.top_folder}/{name}")
            info.size = size_bytes
            info.mode = _FILE_MODE
            info.mtime = contents.entry_time_s
            archive.addfile(info, _Counted(stream, advance))


class _Counted:
    """A stream that reports what is read from it: tarfile does its own copying."""

    def __init__(self, stream: IO[bytes], advance: Advance) -> None:
        self._stream = stream
        self._advance = advance

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._advance(len(data))
        return data


def write_folder(target: Path, contents: Contents, advance: Advance) -> None:
    """Plain files in a folder, as they lie in an unpacked archive."""
    target.mkdir()
    for name, _, stream in _streams(contents):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            _copy(stream, file, advance)


def _streams(contents: Contents) -> Iterator[tuple[str, int, IO[bytes]]]:
    for source in contents.files:
        with source.path.open("rb") as stream:
            yield source.name, os.fstat(stream.fileno()).st_size, stream
    yield MANIFEST_NAME, len(contents.manifest_json), io.BytesIO(contents.manifest_json)


def _copy(source: IO[bytes], target: IO[bytes] | BinaryIO, advance: Advance) -> None:
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        advance(len(chunk))


def write_atomically(writer: Writer, output: Path, contents: Contents, advance: Advance, *, replace: bool) -> None:
    """Writes beside `output` and renames: what others see is the old one, then the complete new one.

    Raises:
        FileExistsError: `output` exists and is not to be replaced.
    """
    temporary = _hidden_sibling(output)
    try:
        writer(temporary, contents, advance)
        publish = _publish_folder if temporary.is_dir() else _publish_file
        publish(temporary, output, replace)
    finally:
        _remove(temporary)


def _publish_file(temporary: Path, output: Path, replace: bool) -> None:
    if replace:
        temporary.replace(output)
        return
    try:
        os.link(temporary, output)  # unlike a rename it fails when another run was faster
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS or output.exists():
            raise
        temporary.replace(output)


def _publish_folder(temporary: Path, output: Path, replace: bool) -> None:
    retired = []
    while not _takes_name(temporary, output):
        if not replace:
            raise FileExistsError(errno.EEXIST, "File exists", str(output))
        retired.append(_hidden_sibling(output))
        with contextlib.suppress(FileNotFoundError):
            output.rename(retired[-1])
    for path in retired:
        _remove(path)


def _takes_name(temporary: Path, output: Path) -> bool:
    try:
        temporary.rename(output)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        return False
    return True


def _hidden_sibling(output: Path) -> Path:
    return output.with_name(f".{secrets.token_hex(8)}.tmp")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
