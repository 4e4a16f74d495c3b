"""A log file that grows, gets old, is moved, deleted or cut, cannot be written, or has a full disk."""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from servers import eventually

from model_server.logs import files as module
from model_server.logs.archives import KEPT_ARCHIVES, archive_path, tidy_archives
from model_server.logs.files import LogFile


@dataclass
class Told:
    """Everything a file has reported."""

    failures: list[tuple[str, str]] = field(default_factory=list)
    recoveries: list[tuple[str, int]] = field(default_factory=list)
    unarchived: list[str] = field(default_factory=list)

    def failed(self, path: Path, error: OSError) -> None:
        self.failures.append((path.name, error.strerror or ""))

    def recovered(self, path: Path, lost: int) -> None:
        self.recoveries.append((path.name, lost))

    def not_archived(self, path: Path, error: OSError) -> None:
        self.unarchived.append(path.name)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def make(tmp_path: Path, told: Told, request: pytest.FixtureRequest) -> Callable[..., LogFile]:
    def make(folder: Path = tmp_path / "logs", max_bytes: int = 1000) -> LogFile:
        file = LogFile(folder / "access_log.log", told, max_bytes)
        request.addfinalizer(file.close)
        file.open()
        return file

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def today(suffix: str = ".log.gz") -> str:
    # TorchServe's pattern %d{dd-MMM}, with English months.
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    now = date.today()
    return f"access_log.{now.day:02d}-{months[now.month - 1]}{suffix}"


def age(path: Path, days: int) -> None:
    then = (datetime.now() - timedelta(days=days)).timestamp()
    os.utime(path, (then, then))


def test_it_is_there_before_its_first_line(tmp_path: Path, make: Callable[..., LogFile]) -> None:
    make(tmp_path / "new" / "logs")
    assert (tmp_path / "new" / "logs" / "access_log.log").read_bytes() == b""


def test_lines_follow_those_of_an_earlier_run(tmp_path: Path, make: Callable[..., LogFile]) -> None:
    for text in (b"first\n", b"second\n"):
        file = make()
        file.write(text, 1)
        file.close()
    assert (tmp_path / "logs" / "access_log.log").read_bytes() == b"first\nsecond\n"


def test_a_full_file_is_archived(tmp_path: Path, make: Callable[..., LogFile]) -> None:
    file = make()
    file.write(b"a" * 899 + b"\n", 1)
    file.write(b"b" * 100 + b"\n", 1)
    folder = tmp_path / "logs"
    eventually(lambda: names(folder) == [today(), "access_log.log"], "the archive")
    assert gzip.decompress((folder / today()).read_bytes()) == b"a" * 899 + b"\n"
    assert (folder / "access_log.log").read_bytes() == b"b" * 100 + b"\n"


def test_the_second_of_a_day_does_not_replace_the_first(tmp_path: Path, make: Callable[..., LogFile]) -> None:
    file, folder = make(), tmp_path / "logs"
    for letter in (b"a", b"b", b"c"):
        file.write(letter * 900, 1)
        eventually(lambda: not list(folder.glob("*.*-*.log")), "packed")
    assert gzip.decompress((folder / today()).read_bytes()) == b"a" * 900
    assert gzip.decompress((folder / today(".1.log.gz")).read_bytes()) == b"b" * 900


def test_a_file_of_yesterday_is_archived_under_its_day(
    tmp_path: Path, make: Callable[..., LogFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "access_log.log").write_bytes(b"old\n")
    os.utime(folder / "access_log.log", (datetime(2024, 5, 30, 12).timestamp(),) * 2)
    file = make()
    file.write(b"new\n", 1)
    eventually(lambda: names(folder) == ["access_log.30-May.log.gz", "access_log.log"], "yesterday's archive")
    assert gzip.decompress((folder / "access_log.30-May.log.gz").read_bytes()) == b"old\n"
    assert (folder / "access_log.log").read_bytes() == b"new\n"


def test_midnight(tmp_path: Path, make: Callable[..., LogFile], monkeypatch: pytest.MonkeyPatch) -> None:
    file = make()
    file.write(b"before\n", 1)

    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return date.today() + timedelta(days=1)

    monkeypatch.setattr(module, "date", Tomorrow)
    file.write(b"after\n", 1)
    eventually(lambda: names(tmp_path / "logs") == [today(), "access_log.log"], "the archive of the day")


def test_the_newest_archives_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "access_log.log"
    log.write_bytes(b"now")
    for days in range(1, 9):
        old = tmp_path / f"access_log.{days:02d}-Mar.log{'.gz' if days > 3 else ''}"
        old.write_bytes(b"%d" % days)
        age(old, days)
    others = ["ts_log.01-Mar.log.gz", "access_log.txt", "access_log.notes.log"]
    for other in others:
        (tmp_path / other).write_bytes(b"")
    tidy_archives(log)
    kept = [f"access_log.{days:02d}-Mar.log.gz" for days in range(1, KEPT_ARCHIVES + 1)]
    assert names(tmp_path) == sorted(["access_log.log", *kept, *others])
    # An archive packed now is as old as what is in it.
    tidy_archives(log)
    assert gzip.decompress((tmp_path / kept[0]).read_bytes()) == b"1"
    assert (tmp_path / kept[0]).stat().st_mtime < (datetime.now() - timedelta(hours=23)).timestamp()


def test_a_name_that_is_taken_is_not_used(tmp_path: Path) -> None:
    log, day = tmp_path / "ts_log.log", date(2026, 2, 3)
    assert archive_path(log, day).name == "ts_log.03-Feb.log"
    (tmp_path / "ts_log.03-Feb.log.gz").touch()
    (tmp_path / "ts_log.03-Feb.1.log").touch()
    assert archive_path(log, day).name == "ts_log.03-Feb.2.log"


def test_logrotate_moves_and_then_asks_for_a_new_file(tmp_path: Path, make: Callable[..., LogFile]) -> None:
    file, path = make(), tmp_path / "logs" / "access_log.log"
    file.write(b"one\n", 1)
    path.rename(path.with_suffix(".1"))
    file.write(b"still the old one\n", 1)
    file.reopen()
    file.write(b"two\n", 1)
    assert path.with_suffix(".1").read_bytes() == b"one\nstill the old one\n"
    assert path.read_bytes() == b"two\n"


@pytest.mark.parametrize("take_away", [Path.unlink, lambda path: path.rename(path.with_suffix(".1"))])
def test_a_file_that_is_gone_is_made_anew_without_being_told(
    tmp_path: Path, make: Callable[..., LogFile], monkeypatch: pytest.MonkeyPatch, take_away: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(module, "_CHECK_S", 0.0)
    file, path = make(), tmp_path / "logs" / "access_log.log"
    file.write(b"one\n", 1)
    take_away(path)
    file.write(b"two\n", 1)
    assert path.read_bytes() == b"two\n"


def test_a_file_that_is_copied_and_cut_goes_on_at_its_beginning(
    tmp_path: Path, make: Callable[..., LogFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_S", 0.0)
    file, path = make(), tmp_path / "logs" / "access_log.log"
    for _ in range(5):
        file.write(b"x" * 900, 1)
        os.truncate(path, 0)
    file.write(b"two\n", 1)
    assert path.read_bytes() == b"two\n"
    assert names(path.parent) == ["access_log.log"]


def test_a_folder_that_cannot_be_is_reported_and_tried_again(
    tmp_path: Path, make: Callable[..., LogFile], told: Told
) -> None:
    (tmp_path / "logs").write_text("a file, where the folder should be")
    file = make()
    file.write(b"1\n2\n", 2)
    file.write(b"3\n", 1)
    assert told.failures == [("access_log.log", os.strerror(errno.EEXIST))] * 3
    (tmp_path / "logs").unlink()
    file.write(b"4\n", 1)
    assert told.recoveries == [("access_log.log", 3)]
    assert (tmp_path / "logs" / "access_log.log").read_bytes() == b"4\n"


def test_a_full_disk(tmp_path: Path, make: Callable[..., LogFile], told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has room for four bytes, then for none, then for everything."""
    file, real_write, room = make(), os.write, [4]

    def write(descriptor: int, data: bytes) -> int:
        if not room:
            return real_write(descriptor, data)
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real_write(descriptor, data[: room[0]])
        room[0] = 0
        return written

    monkeypatch.setattr(module.os, "write", write)
    file.write(b"first\n", 1)
    file.write(b"second\nthird\n", 2)
    room.clear()
    file.write(b"fourth\n", 1)
    assert told.failures == [("access_log.log", "No space left on device")] * 2
    assert told.recoveries == [("access_log.log", 3)]
    # What was cut off does not run into the next line.
    assert (tmp_path / "logs" / "access_log.log").read_bytes() == b"firs\nfourth\n"


def test_a_file_that_cannot_be_archived_grows_on(
    tmp_path: Path, make: Callable[..., LogFile], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    file = make()
    monkeypatch.setattr(Path, "rename", refuse)
    for _ in range(3):
        file.write(b"x" * 900, 1)
    assert (tmp_path / "logs" / "access_log.log").stat().st_size == 2700
    assert set(told.unarchived) == {"access_log.log"}
    assert told.failures == []
