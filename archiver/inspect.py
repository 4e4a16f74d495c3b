"""Looking into an archive without executing anything in it: what it holds, and whether it would load."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from archiver.archive import FolderArchive, open_archive
from archiver.checks import MAX_SOURCE_BYTES, missing_files, needed_handler_file, source_problem, weights_problem
from archiver.config_file import check_handler_section, parse_config
from archiver.config_keys import mistakes
from archiver.entries import Archive, Entry
from archiver.errors import ArchiverError, InvalidConfig
from archiver.manifest import MANIFEST_NAME, Manifest
from archiver.unpack import resolve_model_root


@dataclass
class Report:
    """What was found.

    Attributes:
        problems: why it would not load, one sentence each.
        mistakes: what would load and is probably not meant: mistyped keys, values that are ignored.
    """

    path: Path
    format: str = "unknown"
    manifest: Manifest | None = None
    config: dict[str, Any] | None = None
    files: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    @property
    def would_load(self) -> bool:
        return not self.problems

    @property
    def total_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {
            "path": str(self.path),
            "format": self.format,
            "wouldLoad": self.would_load,
            "problems": self.problems,
            "mistakes": self.mistakes,
            "manifest": self.manifest.raw if self.manifest else None,
            "config": _json_value(self.config),
            "files": [_json_entry(entry) for entry in self.files],
            "totalBytes": self.total_bytes,
        }


def inspect(path: Path) -> Report:
    """Reads all of a .mar, a tar.gz or a model folder; what is wrong with it goes into the report's problems.

    Raises:
        OSError: it cannot be read.
    """
    report = Report(path)
    try:
        with FolderArchive(resolve_model_root(path)) if path.is_dir() else open_archive(path) as archive:
            report.format = archive.format
            _read_everything(archive, report)
            _check_contents(archive, report)
    except ArchiverError as error:
        report.problems.append(str(error))
    return report


def _read_everything(archive: Archive, report: Report) -> None:
    for entry, chunks in archive.files():
        for _ in chunks:
            pass  # reading to the end is what verifies the checksum
        if not entry.is_directory:
            report.files.append(entry)


def _check_contents(archive: Archive, report: Report) -> None:
    root = _top_folder(report.files) if archive.format == "tar.gz" else ""
    manifest_json = _contents(archive, root, [MANIFEST_NAME]).get(MANIFEST_NAME)
    if manifest_json is None:
        report.problems.append(f"There is no {MANIFEST_NAME}; it loads only when it is registered with a handler.")
        return
    report.manifest = manifest = Manifest.from_json(manifest_json)
    names = {entry.name for entry in report.files}
    report.problems += missing_files(manifest, lambda name: _in_archive(root, name) in names)
    if not manifest.model.handler:
        report.problems.append("The manifest names no handler; it loads only when it is registered with one.")
    _check_config(archive, root, manifest, report)
    _check_weights(manifest, report)
    _check_sources(archive, root, manifest, report)


def _check_config(archive: Archive, root: str, manifest: Manifest, report: Report) -> None:
    for name, data in _contents(archive, root, [manifest.model.config_file]).items():
        try:
            report.config = parse_config(data, name)
            report.mistakes += mistakes(report.config)
            check_handler_section(report.config, name)
        except InvalidConfig as error:
            report.problems.append(str(error))


def _check_weights(manifest: Manifest, report: Report) -> None:
    handler = report.config.get("handler") if report.config else None
    is_any_pickle_loaded = isinstance(handler, dict) and bool(handler.get("allow_pickle"))
    if not is_any_pickle_loaded and (problem := weights_problem(manifest)):
        report.problems.append(problem)


def _check_sources(archive: Archive, root: str, manifest: Manifest, report: Report) -> None:
    sources = _contents(archive, root, [needed_handler_file(manifest), manifest.model.model_file])
    problems = (source_problem(data, name) for name, data in sources.items() if name.endswith(".py"))
    report.problems += filter(None, problems)


def _top_folder(entries: Iterable[Entry]) -> str:
    tops = {entry.name.partition("/")[:2] for entry in entries}
    top, slash = tops.pop() if len(tops) == 1 else ("", "")
    return top if slash and top != PurePosixPath(MANIFEST_NAME).parts[0] else ""


def _in_archive(root: str, name: str) -> str:
    return str(PurePosixPath(root, name))


def _contents(archive: Archive, root: str, names: Iterable[str | None]) -> dict[str, bytes]:
    """The wanted files that are there, cut behind the largest size that any of them may have."""
    wanted = {_in_archive(root, name): name for name in names if name}
    found = {}
    for entry, chunks in archive.files() if wanted else ():
        if entry.name in wanted:
            found[wanted[entry.name]] = _head(chunks)
            if len(found) == len(wanted):
                break
    return found


def _head(chunks: Iterable[bytes]) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > MAX_SOURCE_BYTES:
            break
    return bytes(data)


def _json_entry(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "sizeBytes": entry.size_bytes,
        "compressedBytes": entry.compressed_bytes,
        "compression": entry.compression,
    }


def _json_value(value: Any) -> Any:
    """YAML knows dates, sets, infinities and keys of any type; JSON does not."""
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)
