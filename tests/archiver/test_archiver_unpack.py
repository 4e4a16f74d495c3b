"""Unpacking good archives, and what is found in the folder that comes out."""

import io
import os
import stat
import tarfile
import zipfile

import pytest
from archive_builders import GOOD, contents, tar_bytes, tar_of, zip_bytes, zip_with_mode

from archiver.manifest import Manifest, ModelEntry
from archiver.unpack import check_files, resolve_model_root


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(unpacked, method):
    folder = unpacked(zip_bytes(GOOD, method))
    assert contents(folder) == GOOD
    assert sorted(os.listdir(folder.parent)) == ["dest", "destx"]


@pytest.mark.parametrize("name", ["model.tar.gz", "model.mar", "model"])
def test_tar_gz_loses_its_single_top_folder_whatever_it_is_called(unpacked, name):
    folder = unpacked(tar_of({f"bert/{entry}": content for entry, content in GOOD.items()}), name)
    assert contents(folder) == GOOD


@pytest.mark.parametrize("prefix", ["", "./"])
def test_tar_gz_without_a_top_folder(unpacked, prefix):
    members = [(tarfile.TarInfo(prefix + name), content) for name, content in GOOD.items()]
    root = tarfile.TarInfo("./")
    root.type = tarfile.DIRTYPE
    assert contents(unpacked(tar_bytes((root, b""), *members))) == GOOD


def test_a_tar_gz_that_holds_a_manifest_only_keeps_its_folder(unpacked):
    entries = {"MAR-INF/MANIFEST.json": b"{}"}
    assert contents(unpacked(tar_of(entries))) == entries


def test_folder_entries_and_empty_files(unpacked):
    folder = unpacked(zip_bytes({"empty/": b"", "sub/": b"", "sub/none.txt": b""}))
    assert (folder / "empty").is_dir()
    assert contents(folder) == {"sub/none.txt": b""}


def test_modes_are_ours_whatever_the_archive_and_the_umask_say(unpacked):
    old = os.umask(0o077)
    try:
        folder = unpacked(zip_with_mode("sub/tool", stat.S_IFREG | 0o4777 & 0o777))
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert modes == {"dest": 0o755, "sub": 0o755, "tool": 0o644, "first.txt": 0o644, "last.txt": 0o644}


def test_streamed_zips_with_data_descriptors(unpacked):
    class Unseekable(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, chunk):
            self.data += chunk
            return len(chunk)

    stream = Unseekable()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content)
    assert contents(unpacked(bytes(stream.data))) == GOOD


def test_a_zip_with_a_comment(unpacked):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
        archive.comment = b"9d2b8b6"
    assert contents(unpacked(buffer.getvalue())) == {"a.txt": b"a"}


def test_long_and_foreign_names(unpacked):
    entries = {"ä/" + "é" * 100 + ".txt": b"x", "/".join(["d" * 200] * 15) + "/f": b"y"}
    assert contents(unpacked(tar_of({**entries, "z": b""}))) == {**entries, "z": b""}


def test_an_existing_destination_is_left_alone(unpacked, tmp_path):
    (tmp_path / "store" / "dest").mkdir()
    with pytest.raises(FileExistsError):
        unpacked(zip_bytes(GOOD))


def test_a_failing_disk_is_not_the_archives_fault_and_leaves_nothing(unpacked, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", no_space)
    with pytest.raises(OSError, match="No space left"):
        unpacked(zip_bytes(GOOD))


# What came out


def test_resolve_model_root(tmp_path):
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    assert resolve_model_root(tmp_path / "outer") == inner
    assert resolve_model_root(inner) == inner
    (tmp_path / "outer" / "file").touch()
    assert resolve_model_root(tmp_path / "outer") == tmp_path / "outer"
    (inner / "MAR-INF").mkdir()
    assert resolve_model_root(inner) == inner


@pytest.mark.parametrize("handler", ["h", "h.py", "h:entry", "h.py:entry"])
def test_check_files(tmp_path, handler):
    model = ModelEntry("bert", "w.pt", handler, "net.py", "1.0", None, "requirements.txt", "model-config.yaml")
    problems = check_files(tmp_path, Manifest(model))
    assert [problem.split(" is not in the archive")[0] for problem in problems] == [
        'serializedFile: "w.pt"',
        'modelFile: "net.py"',
        'requirementsFile: "requirements.txt"',
        'configFile: "model-config.yaml"',
        'handler: "h.py"',
    ]
    for name in ("w.pt", "net.py", "requirements.txt", "model-config.yaml", "h.py"):
        (tmp_path / name).touch()
    assert check_files(tmp_path, Manifest(model)) == []


@pytest.mark.parametrize("handler", ["base_handler", "transformer_handler", "image_classifier", None])
def test_check_files_needs_no_file_for_a_built_in_handler(tmp_path, handler):
    assert check_files(tmp_path, Manifest(ModelEntry("bert", handler=handler))) == []
