"""What an archive may hold: the rules for entry names and sizes, the same for every format.

One bad entry condemns the whole archive. Names are judged as they would act on any file system, so that an archive
means the same everywhere: no way out of the folder, no twins that a case-insensitive disk would merge.
"""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from archiver.errors import InvalidArchive

MAX_COMPONENT_BYTES = 255
MAX_NAME_BYTES = 4096
MAX_DEPTH = 64
CHUNK_BYTES = 1 << 20  # large enough that reading, inflating and writing run outside the interpreter lock


@dataclass(frozen=True)
class ExtractLimits:
    """How much an archive may unpack to. Below `ratio_floor_bytes` no ratio is judged."""

    max_entries: int = 100_000
    max_total_bytes: int = 64 * 2**30
    max_ratio: int = 1000
    ratio_floor_bytes: int = 64 * 2**20


DEFAULT_LIMITS = ExtractLimits()


@dataclass(frozen=True)
class Entry:
    """One file or folder of an archive; `name` is relative, with forward slashes, without `.` components."""

    name: str
    size_bytes: int
    is_directory: bool = False
    compression: str = "none"
    compressed_bytes: int | None = None


class Archive(AbstractContextManager["Archive"], Protocol):
    """An opened archive. `files` may be called more than once; each entry's chunks are read before the next entry."""

    format: str

    def files(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Entries with their content in chunks; raises InvalidArchive for damage and for refused entries."""


def quoted(name: str) -> str:
    """A name from an archive as it may be shown: escaped, and cut when it is long."""
    return repr(name) if len(name) <= 100 else f"{name[:100]!r}… ({len(name)} characters)"


def refusal(name: str, reason: str) -> InvalidArchive:
    """The error for an entry that condemns its archive."""
    return InvalidArchive(f"Entry {quoted(name)} is refused: it {reason}. Rename it or leave it out.")


def path_problem(name: str) -> str | None:
    """Why `name` must not be used as a path inside an archive, as the end of a sentence; None when it may."""
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "holds a control character"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in name.split("/"):
        return "leaves the archive through '..'"
    return _component_problem(_components(name))


def _components(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _component_problem(parts: list[str]) -> str | None:
    if not parts:
        return "is empty"
    if re.match("[A-Za-z]:", parts[0]):
        return "starts with a drive letter"
    if len(parts) > MAX_DEPTH:
        return f"lies more than {MAX_DEPTH} folders deep"
    if any(part.endswith((" ", ".")) for part in parts):
        return "holds a component that ends in a space or a dot"
    return _length_problem(parts)


def _length_problem(parts: list[str]) -> str | None:
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    if max(lengths) > MAX_COMPONENT_BYTES:
        return f"holds a component of more than {MAX_COMPONENT_BYTES} bytes"
    if sum(lengths) + len(parts) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    return None


def entry_name(raw_name: str) -> str:
    """The normalised name of an entry as an archive spells it; raises InvalidArchive when it is refused."""
    if problem := path_problem(raw_name):
        raise refusal(raw_name, problem)
    return "/".join(_components(raw_name))


def is_root(raw_name: str) -> bool:
    """Whether an entry names the archive's own top folder, as `tar` writes for `.`."""
    return raw_name in (".", "./")


class NameChecker:
    """Refuses names that meet: duplicates, case-fold twins, a file where another entry needs a folder.

    The state is the map of folded names seen so far; only `add` changes it.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, bool]] = {}

    def add(self, name: str, *, is_directory: bool = False) -> None:
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            self._place(str(parent), is_directory=True)
        self._place(name, is_directory=is_directory)

    def _place(self, name: str, *, is_directory: bool) -> None:
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded not in self._seen:
            self._seen[folded] = (name, is_directory)
            return
        seen_name, seen_directory = self._seen[folded]
        if seen_name != name:
            raise refusal(name, f"differs from {quoted(seen_name)} only in case or in how its letters are encoded")
        if is_directory != seen_directory:
            raise refusal(name, "is used both as a file and as a folder")
        if not is_directory:
            raise refusal(name, "occurs twice")


class EntryChecker:
    """Refuses entries that break the limits or meet another one; `archive_bytes` is the size of the packed file.

    The state is the names, the count and the total so far; only `add` changes it.
    """

    def __init__(self, limits: ExtractLimits, archive_bytes: int) -> None:
        self._limits = limits
        self._archive_bytes = archive_bytes
        self._names = NameChecker()
        self._count = 0
        self._total_bytes = 0

    def add(self, entry: Entry) -> None:
        self._count += 1
        self._total_bytes += entry.size_bytes
        check_count(self._count, self._limits)
        self._names.add(entry.name, is_directory=entry.is_directory)
        if self._total_bytes > self._limits.max_total_bytes:
            raise InvalidArchive(
                f"The archive unpacks to more than the allowed {self._limits.max_total_bytes:,} bytes "
                f"({quoted(entry.name)} is the entry that goes over)."
            )
        self._check_ratio(entry.name, self._total_bytes, self._archive_bytes)
        if entry.compressed_bytes is not None:
            self._check_ratio(entry.name, entry.size_bytes, entry.compressed_bytes)

    def _check_ratio(self, name: str, size_bytes: int, packed_bytes: int) -> None:
        if size_bytes > max(self._limits.ratio_floor_bytes, self._limits.max_ratio * packed_bytes):
            raise InvalidArchive(
                f"{size_bytes:,} bytes would come out of {packed_bytes:,} (entry {quoted(name)}); allowed are "
                f"{self._limits.max_ratio} to 1. If the files are meant to be that empty, pack them with zip-store."
            )


def check_count(count: int, limits: ExtractLimits) -> None:
    """Raises InvalidArchive for more entries than allowed."""
    if count > limits.max_entries:
        raise InvalidArchive(f"The archive holds more than the allowed {limits.max_entries:,} entries.")
