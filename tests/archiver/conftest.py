"""A folder of inputs like those of the Hugging Face example, and two ways to look at a tree of files."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from archiver.entries import ExtractLimits
from archiver.unpack import unpack

HANDLER = "def handle(data, context):\n    return data\n"


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: weights, handler, configuration, a folder of extra files."""
    folder = tmp_path / "inputs"
    (folder / "extras" / "vocab" / "deep").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 16)
    (folder / "my_handler.py").write_text(HANDLER)
    (folder / "net.py").write_text("class Net:\n    pass\n")
    (folder / "model-config.yaml").write_text("minWorkers: 1\nhandler:\n  mode: sequence_classification\n")
    (folder / "requirements.txt").write_text("numpy\n")
    (folder / "extras" / "index_to_name.json").write_text('{"0": "Not Accepted"}')
    (folder / "extras" / ".hidden_file").write_text("kept")
    (folder / "extras" / "vocab" / "vocab.txt").write_text("a\n" * 500)
    (folder / "extras" / "vocab" / "deep" / "merges.txt").write_text("b")
    for dropped in ("__pycache__", "__MACOSX", ".git"):
        (folder / "extras" / "vocab" / dropped).mkdir()
        (folder / "extras" / "vocab" / dropped / "junk.txt").write_text("dropped")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return folder


@pytest.fixture
def tree_digest() -> Callable[[Path], str]:
    """Hashes names, kinds, modes and contents of everything under a folder."""

    def digest(folder: Path) -> str:
        sha = hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            sha.update(f"{path.relative_to(folder)}|{status.st_mode}|".encode())
            if path.is_symlink():
                sha.update(os.readlink(path).encode())
            elif path.is_file():
                sha.update(path.read_bytes())
        return sha.hexdigest()

    return digest


@pytest.fixture
def file_names() -> Callable[[Path], list[str]]:
    """The relative names of all files under a folder, sorted."""
    return lambda folder: sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def unpacked(tmp_path: Path, tree_digest):
    """Unpacks bytes into `store/dest`; on a refusal it checks that nothing anywhere has changed."""
    store = tmp_path / "store"
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "file").write_text("untouched")
    (store / "destx").mkdir(parents=True)
    (store / "destx" / "y").write_text("the sibling that shares the prefix")

    def run(content: bytes, name: str = "model.mar", **limits: int) -> Path:
        archive = tmp_path / name
        archive.write_bytes(content)
        before = tree_digest(tmp_path)
        try:
            unpack(archive, store / "dest", ExtractLimits(**limits))
        except BaseException:
            assert tree_digest(tmp_path) == before
            raise
        return store / "dest"

    return run
