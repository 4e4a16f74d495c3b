"""What becomes of log files that are full: TorchServe's names, packed with gzip, and only the newest are kept.

`access_log.log` becomes `access_log.30-May.log`, named after its day, then `access_log.30-May.log.gz`. A second one of
the same day is `access_log.30-May.1.log.gz`.
"""

from __future__ import annotations

import gzip
import itertools
import re
import shutil
from datetime import date
from pathlib import Path

KEPT_ARCHIVES = 5

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY = rf"\d\d-(?:{'|'.join(_MONTHS)})(?:\.\d+)?"


def archive_path(log: Path, day: date) -> Path:
    """A name that no archive of this log has yet, not packed."""
    stem = f"{log.stem}.{day.day:02d}-{_MONTHS[day.month - 1]}"
    for suffix in itertools.chain([""], (f".{number}" for number in itertools.count(1))):
        path = log.with_name(f"{stem}{suffix}.log")
        if not path.exists() and not _packed(path).exists():
            return path
    raise AssertionError("numbers do not end")


def tidy_archives(log: Path) -> None:
    """Packs this log's archives that are not packed yet, the newest `KEPT_ARCHIVES` of them; deletes the others.

    Raises:
        OSError: not all of it could be done; nothing is lost.
    """
    name = re.compile(rf"{re.escape(log.stem)}\.{_DAY}\.log(?:\.gz)?")
    archives = [path for path in log.parent.iterdir() if name.fullmatch(path.name)]
    archives.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in archives[KEPT_ARCHIVES:]:
        old.unlink()
    for path in archives[:KEPT_ARCHIVES]:
        if path.suffix == ".log":
            _pack(path)


def _pack(path: Path) -> None:
    unfinished = path.with_name(f"{path.name}.gz.part")
    try:
        with path.open("rb") as source, gzip.open(unfinished, "wb") as target:
            shutil.copyfileobj(source, target)
        shutil.copystat(path, unfinished)
        unfinished.rename(_packed(path))
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    path.unlink()


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")
