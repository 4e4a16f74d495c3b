"""Unpacking archives and looking at what came out. Blocking functions: a server calls them in a thread."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from archiver.archive import open_archive
from archiver.checks import missing_files
from archiver.entries import DEFAULT_LIMITS, Archive, Entry, ExtractLimits, refusal
from archiver.manifest import MANIFEST_NAME, Manifest

_FOLDER_MODE = 0o755
_FILE_MODE = 0o644


def unpack(archive: Path, dest: Path, limits: ExtractLimits = DEFAULT_LIMITS) -> None:
    """Unpacks a ZIP or tar.gz archive into the new folder `dest`, or leaves nothing at all.

    A tar.gz loses the single folder that all its entries lie in. Permissions in the archive are ignored: folders
    get 0755, files 0644.

    Raises:
        InvalidArchive: not an archive, damaged, over a limit, or with an entry that is refused.
        FileExistsError: `dest` exists.
        OSError: the disk is full, or a permission is missing.
    """
    if os.path.lexists(dest):
        raise FileExistsError(errno.EEXIST, "The folder to unpack into exists", str(dest))
    with open_archive(archive, limits) as source:
        staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=dest.parent))
        try:
            _write_files(source, staging)
            root = resolve_model_root(staging) if source.format == "tar.gz" else staging
            root.chmod(_FOLDER_MODE)
            root.rename(dest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write_files(source: Archive, folder: Path) -> None:
    for entry, chunks in source.files():
        try:
            _write_entry(folder / entry.name, entry, chunks)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise refusal(entry.name, "is too long for the file system that it would be unpacked to") from error


def _write_entry(path: Path, entry: Entry, chunks: Iterator[bytes]) -> None:
    if entry.is_directory:
        _make_folder(path)
        return
    _make_folder(path.parent)
    with path.open("xb") as file:
        os.fchmod(file.fileno(), _FILE_MODE)
        for chunk in chunks:
            file.write(chunk)


def _make_folder(path: Path) -> None:
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir()
    path.chmod(_FOLDER_MODE)  # mkdir's own mode would be cut by the umask


def resolve_model_root(folder: Path) -> Path:
    """The folder that holds the model: that inside, when there is nothing beside it (as SageMaker packs)."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name != Path(MANIFEST_NAME).parent.name:
        return entries[0]
    return folder


def check_files(model_dir: Path, manifest: Manifest) -> list[str]:
    """A sentence for each file that the manifest names and the folder does not hold."""
    return missing_files(manifest, lambda name: (model_dir / name).is_file())
