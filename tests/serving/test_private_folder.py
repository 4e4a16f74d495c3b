"""A server's folder goes with it; what a killed one has left is removed, and nothing else."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_server.serving.private_folder import PrivateFolder

KILLED = """
import os, sys
from pathlib import Path
from model_server.serving.private_folder import PrivateFolder
folder = PrivateFolder(Path(sys.argv[1]))
(folder.path / "model").mkdir()
(folder.path / "model" / "weights").write_bytes(b"x")
print(folder.path, flush=True)
os.kill(os.getpid(), 9)
"""


def left_behind(temp: Path) -> Path:
    done = subprocess.run([sys.executable, "-c", KILLED, str(temp)], capture_output=True, text=True, timeout=60)
    folder = Path(done.stdout.strip())
    assert (folder / "model" / "weights").exists()
    return folder


def test_it_is_private_and_goes(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "model").mkdir()
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    left = left_behind(tmp_path)
    folder = PrivateFolder(tmp_path)
    folder.sweep()
    assert not left.exists()
    assert folder.path.exists()


def test_running_servers_keep_theirs(tmp_path: Path) -> None:
    first, second = PrivateFolder(tmp_path), PrivateFolder(tmp_path)
    second.sweep()
    first.sweep()
    assert first.path.exists() and second.path.exists()


@pytest.mark.parametrize("name", ["modelserver-unpacked-", "modelserver-unpacked-my-notes-1", "modelserver-projects"])
def test_folders_of_somebody_stay(tmp_path: Path, name: str) -> None:
    folder = PrivateFolder(tmp_path)
    prefix = folder.path.name[:-8]
    for each in (name, f"{prefix}my-notes", f"{prefix}abcdefg", f"{prefix}abcdefgh9"):
        (tmp_path / each).mkdir(mode=0o700)
    folder.sweep()
    assert len(list(tmp_path.iterdir())) == 5


def test_what_only_looks_like_one_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").touch()
    temp = tmp_path / "temp"
    temp.mkdir()
    (temp / "modelserver-unpacked-abcdefgh").symlink_to(outside)
    (temp / "modelserver-unpacked-abcdefgi").touch()
    (temp / "modelserver-unpacked-abcdefgj").mkdir(mode=0o755)
    folder = PrivateFolder(temp)
    for entry in list(temp.iterdir()):
        if entry != folder.path:
            entry.rename(temp / entry.name.replace("modelserver-unpacked-", folder.path.name[:-8]))
    names = {entry.name for entry in temp.iterdir()}
    folder.sweep()
    assert {entry.name for entry in temp.iterdir()} == names
    assert (outside / "file").exists()


def test_a_folder_that_hands_its_group_on(tmp_path: Path) -> None:
    """As Kubernetes makes volumes with fsGroup."""
    tmp_path.chmod(0o2777)
    left = left_behind(tmp_path)
    folder = PrivateFolder(tmp_path)
    assert folder.path.stat().st_mode & stat.S_ISGID
    folder.sweep()
    assert not left.exists()
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""
    left = left_behind(tmp_path)

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    folder = PrivateFolder(tmp_path)
    folder.sweep()
    assert left.exists()
    folder.close()
    assert not folder.path.exists()


def test_what_cannot_be_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = left_behind(tmp_path)
    monkeypatch.setattr("shutil.rmtree", lambda folder, ignore_errors: None)
    PrivateFolder(tmp_path).sweep()
    assert f"{left}, which a server that was killed had left, cannot be removed." in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder somebody else's")
def test_other_users_keep_theirs(tmp_path: Path) -> None:
    left = left_behind(tmp_path)
    os.chown(left, 12345, 12345)
    PrivateFolder(tmp_path).sweep()
    assert left.exists()


def test_servers_that_start_at_the_same_time(tmp_path: Path) -> None:
    """One may sweep the folder of another before that has locked it, which then makes a new one."""

    def start(_: int) -> PrivateFolder:
        folder = PrivateFolder(tmp_path)
        folder.sweep()
        return folder

    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(start, range(400)))
    assert all(folder.path.is_dir() for folder in folders)
    assert len({folder.path for folder in folders}) == 400
    for folder in folders:
        folder.close()
