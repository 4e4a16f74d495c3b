"""The edge at which the standard library's many ways to complain about an archive become InvalidArchive."""

import errno
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from archiver.errors import InvalidArchive

# ValueError, RuntimeError and IndexError stand for what zipfile and tarfile let through from struct, int() and seek()
# on damaged fields; RecursionError (a RuntimeError) for chains of extended tar headers.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
    IndexError,
    KeyError,
)


@contextmanager
def damage_reported(kind: str) -> Iterator[None]:
    """Raises InvalidArchive for what a damaged file of this kind raises; real I/O errors pass."""
    try:
        yield
    except _DAMAGE as error:
        raise damaged(kind, error) from error
    except OSError as error:
        # gzip.BadGzipFile has no errno; seeking to an offset that a damaged header claims gives EINVAL.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise damaged(kind, error) from error


def damaged(kind: str, cause: object) -> InvalidArchive:
    """The error for an archive whose bytes are not what its format says."""
    return InvalidArchive(f"The {kind} archive is damaged or cut short ({cause}). Copy or build it again.")
