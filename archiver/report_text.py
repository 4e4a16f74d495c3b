"""The report of `model-archiver inspect` as text for a person."""

from typing import Any

import yaml

from archiver.entries import Entry
from archiver.inspect import Report
from archiver.manifest import Manifest


def report_text(report: Report) -> str:
    """The report for a person to read."""
    size = format_size(report.total_bytes)
    sections = [
        f"{_printable(str(report.path))}: {report.format}, {len(report.files)} files, {size}",
        _manifest_text(report.manifest),
        _config_text(report.config),
        _files_text(report.files),
        _verdict_text(report),
    ]
    return "\n\n".join(filter(None, sections))


def _manifest_text(manifest: Manifest | None) -> str:
    if not manifest:
        return ""
    model = manifest.raw["model"]
    pairs = [(key, value) for key, value in {**manifest.raw, **model}.items() if key != "model"]
    width = max(len(key) for key, _ in pairs)
    return "\n".join(["Manifest", *(f"  {_printable(key):<{width}}  {_printable(str(value))}" for key, value in pairs)])


def _config_text(config: dict[str, Any] | None) -> str:
    if not config:
        return ""
    lines = yaml.safe_dump(config, sort_keys=False).splitlines()
    return "\n".join(["Configuration", *(f"  {line}" for line in lines)])


def _files_text(entries: list[Entry]) -> str:
    if not entries:
        return ""
    width = max(len(_printable(entry.name)) for entry in entries)
    rows = [_file_row(_printable(entry.name), width, entry) for entry in entries]
    return "\n".join([f"{'Files':<{width + 2}}  {'size':>9}  {'packed':>9}", *rows])


def _file_row(name: str, width: int, entry: Entry) -> str:
    packed = "" if entry.compressed_bytes is None else format_size(entry.compressed_bytes)
    return f"  {name:<{width}}  {format_size(entry.size_bytes):>9}  {packed:>9}  {entry.compression}"


def _verdict_text(report: Report) -> str:
    verdict = "It would not load:" if report.problems else "It would load."
    notes = ["Probably not meant:", *_listed(report.mistakes)] if report.mistakes else []
    return "\n".join([verdict, *_listed(report.problems), *notes])


def _listed(sentences: list[str]) -> list[str]:
    return [f"  - {_printable(sentence)}" for sentence in sentences]


def _printable(text: str) -> str:
    # Text from an archive must not be able to steer the terminal.
    return text if text.isprintable() else repr(text)[1:-1]


def format_size(size_bytes: float) -> str:
    """A size in decimal units: 812 B, 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
