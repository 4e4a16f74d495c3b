"""Unpacking: what comes out of good archives, and that nothing at all comes out of bad ones."""

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from archiver.entries import ExtractLimits
from archiver.errors import InvalidArchive
from archiver.manifest import Manifest, ModelEntry
from archiver.unpack import check_files, resolve_model_root, unpack

GOOD = {"MAR-INF/MANIFEST.json": b'{"model": {}}', "handler.py": b"pass\n", "vocab/words.txt": b"word\n" * 2000}


def zip_bytes(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def zip_with_mode(name: str, mode: int, content: bytes = b"target") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("first.txt", "written before the bad entry")
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, content)
        archive.writestr("last.txt", "written behind it")
    return buffer.getvalue()


def tar_bytes(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tar_of(entries: dict[str, bytes]) -> bytes:
    return tar_bytes(*((tarfile.TarInfo(name), content) for name, content in entries.items()))


def tar_member(name: str, **attributes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member, b"content"


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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Good archives


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


# S-06: names that must not be unpacked

BAD_NAMES = {
    "parent": "../x",
    "absolute": "/abs",
    "drive": "C:\\x",
    "drive with slash": "C:/x",
    "backslash": "..\\x",
    "backslash inside": "a\\b",
    "parent inside": "a/../../x",
    "parent that stays inside": "a/../x",
    "sibling prefix": "../destx/y",
    "sibling prefix from below": "a/../../destx/y",
    "long component": "n" * 256,
    "long path": "/".join(["d" * 200] * 21),
    "deep path": "d/" * 2000 + "x",
    "trailing space": "x ",
    "trailing dot": "x.",
    "trailing dots in a folder": "a.../x",
    "newline": "a\nb",
    "escape": "a\x1b[2Jb",
    "parent as folder": "../x/",
    "only dots": "..",
}


@pytest.mark.parametrize("pack", [zip_bytes, tar_of])
@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_refused_names(unpacked, pack, name):
    with pytest.raises(InvalidArchive, match="is refused"):
        unpacked(pack({"first.txt": b"1", name: b"" if name.endswith("/") else b"2", "last.txt": b"3"}))


def test_nul_in_a_name(unpacked):
    data = zip_bytes({"first.txt": b"1", "aXb": b"2"}).replace(b"aXb", b"a\0b")
    with pytest.raises(InvalidArchive, match="control character"):
        unpacked(data)


@pytest.mark.parametrize("pack", [zip_bytes, tar_of])
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["Model.py", "model.py"], "only in case"),
        (["A/x", "a/y"], "only in case"),
        (["é.txt", "e\u0301.txt"], "only in case"),
        (["straße", "STRASSE"], "only in case"),
        (["a", "a/b"], "both as a file and as a folder"),
        (["a/b", "a"], "both as a file and as a folder"),
        (["a/b", "./a//b"], "occurs twice"),
    ],
)
def test_names_that_meet(unpacked, pack, names, reason):
    with pytest.raises(InvalidArchive, match=reason):
        unpacked(pack(dict.fromkeys(names, b"x")))


def test_duplicate_names(unpacked):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.txt", "1")
        archive.writestr("a.txt", "2")
    with pytest.raises(InvalidArchive, match="occurs twice"):
        unpacked(buffer.getvalue())
    with pytest.raises(InvalidArchive, match="occurs twice"):
        unpacked(tar_bytes(tar_member("a.txt"), tar_member("a.txt")))


# F04: kinds of entries


@pytest.mark.parametrize(
    "mode",
    [
        stat.S_IFLNK | 0o777,
        stat.S_IFIFO | 0o644,
        stat.S_IFCHR | 0o644,
        stat.S_IFBLK | 0o644,
        stat.S_IFSOCK | 0o644,
        stat.S_IFREG | stat.S_ISUID | 0o755,
        stat.S_IFREG | stat.S_ISGID | 0o755,
    ],
    ids=oct,
)
def test_zip_entries_that_are_no_plain_files(unpacked, mode):
    with pytest.raises(InvalidArchive, match="Entry 'sub/bad' is refused"):
        unpacked(zip_with_mode("sub/bad", mode))


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.SYMTYPE, "linkname": "first.txt"},
        {"type": tarfile.LNKTYPE, "linkname": "first.txt"},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.CONTTYPE},
        {"mode": 0o4755},
        {"mode": 0o2755},
    ],
    ids=str,
)
def test_tar_entries_that_are_no_plain_files(unpacked, attributes):
    members = [tar_member("first.txt"), tar_member("sub/bad", **attributes), tar_member("last.txt")]
    with pytest.raises(InvalidArchive, match="Entry 'sub/bad' is refused"):
        unpacked(tar_bytes(*members))


def test_writing_through_a_link(unpacked, tmp_path):
    link = tar_member("dir", type=tarfile.SYMTYPE, linkname=str(tmp_path / "canary"))
    with pytest.raises(InvalidArchive, match="is refused"):
        unpacked(tar_bytes(link, tar_member("dir/file")))


def test_encrypted_and_unknown_compression(unpacked):
    data = bytearray(zip_bytes({"a.txt": b"abc"}))
    central = data.index(b"PK\1\2")
    encrypted = data.copy()
    encrypted[6] |= 1
    encrypted[central + 8] |= 1
    with pytest.raises(InvalidArchive, match="encrypted"):
        unpacked(bytes(encrypted))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(InvalidArchive, match=f"compression method {method}"):
            unpacked(zip_bytes({"a.txt": b"abc" * 99}, method))
    data[8] = data[central + 10] = 97
    with pytest.raises(InvalidArchive, match="compression method 97"):
        unpacked(bytes(data))


# F05: limits


def test_limits(unpacked):
    with pytest.raises(InvalidArchive, match="more than the allowed 2 entries"):
        unpacked(zip_bytes(GOOD), max_entries=2)
    with pytest.raises(InvalidArchive, match="more than the allowed 2 entries"):
        unpacked(tar_of(GOOD), max_entries=2)
    for archive in (zip_bytes(GOOD), tar_of(GOOD)):
        with pytest.raises(InvalidArchive, match="more than the allowed 10,000 bytes"):
            unpacked(archive, max_total_bytes=10_000)


@pytest.mark.parametrize("pack", [zip_bytes, tar_of])
def test_bombs(unpacked, pack):
    bomb = pack({"zeros": bytes(2_000_000)})
    with pytest.raises(InvalidArchive, match="allowed are 100 to 1"):
        unpacked(bomb, max_ratio=100, ratio_floor_bytes=1_000_000)
    assert len(contents(unpacked(bomb))["zeros"]) == 2_000_000


def test_a_bomb_beside_incompressible_data(unpacked):
    entries = {"noise": random.Random(0).randbytes(1_000_000), "zeros": bytes(2_000_000)}
    with pytest.raises(InvalidArchive, match="entry 'zeros'"):
        unpacked(zip_bytes(entries), max_ratio=100, ratio_floor_bytes=1_000_000)


def test_a_tar_header_that_claims_gigabytes_for_itself(unpacked):
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 5 * 2**30
    with pytest.raises(InvalidArchive, match="5,368,709,120 bytes for itself"):
        unpacked(gzip.compress(header.tobuf() + bytes(10_000)))


def test_a_zip_directory_that_promises_other_entries_than_it_holds(unpacked):
    data = bytearray(zip_bytes(GOOD))
    end = data.rindex(b"PK\5\6")
    struct.pack_into("<HH", data, end + 8, 2, 2)
    with pytest.raises(InvalidArchive, match="does not hold the entries it promises"):
        unpacked(bytes(data))


def test_overlapping_entries(unpacked):
    data = bytearray(zip_bytes({"aa.txt": b"x" * 50, "bb.txt": b"x" * 50}, zipfile.ZIP_STORED))
    second = data.rindex(b"PK\1\2")
    struct.pack_into("<L", data, second + 42, 0)
    with pytest.raises(InvalidArchive, match="is refused"):
        unpacked(bytes(data))


# F01, F02: damage

NOT_ARCHIVES = {
    b"": "an empty file",
    b"x": "a text file",
    "Grüße ".encode() * 200: "a text file",
    bytes(range(256)): "binary data",
    b"<!DOCTYPE html><html>404</html>": "a web page",
    b"version https://git-lfs.github.com/spec/v1\n": "a Git LFS pointer",
    b"\x80\x02}q\x00.": "a Python pickle",
    struct.pack("<Q", 40) + b'{"weight": {"dtype": "F32"}}': "a safetensors file",
    b"7z\xbc\xaf\x27\x1c" + bytes(40): "a 7-Zip archive",
}


@pytest.mark.parametrize(("content", "description"), NOT_ARCHIVES.items(), ids=NOT_ARCHIVES.values())
def test_files_that_are_no_archives_are_told_what_they_are(unpacked, content, description):
    with pytest.raises(InvalidArchive, match=f"it looks like {description}"):
        unpacked(content)


def test_an_uncompressed_tar(unpacked):
    with pytest.raises(InvalidArchive, match="an uncompressed tar archive: compress it"):
        unpacked(gzip.decompress(tar_of(GOOD)))


def test_a_folder_and_a_missing_file(tmp_path):
    with pytest.raises(InvalidArchive, match="is a folder"):
        unpack(tmp_path, tmp_path / "dest")
    with pytest.raises(FileNotFoundError):
        unpack(tmp_path / "none.mar", tmp_path / "dest")


def test_an_empty_zip(unpacked):
    with pytest.raises(InvalidArchive, match="holds no files"):
        unpacked(zip_bytes({}))


@pytest.mark.parametrize("pack", [zip_bytes, tar_of])
@pytest.mark.parametrize("percent", range(0, 100, 10))
def test_truncation(unpacked, pack, percent):
    data = pack({**GOOD, "weights.bin": random.Random(1).randbytes(5000)})
    with pytest.raises(InvalidArchive):
        unpacked(data[: len(data) * percent // 100])


@pytest.mark.parametrize("pack", [zip_bytes, tar_of])
def test_every_short_truncation_at_the_end(unpacked, pack):
    data = pack(GOOD)
    for cut in range(1, 9):
        with pytest.raises(InvalidArchive):
            unpacked(data[:-cut])


def test_a_tar_cut_on_the_inside(unpacked):
    tar = gzip.decompress(tar_of(GOOD))
    for cut in (100, 512 + 3, 1024 + 200, 2048 + 700):
        with pytest.raises(InvalidArchive):
            unpacked(gzip.compress(tar[:cut]))


@pytest.mark.parametrize("pack", [zip_bytes, lambda entries: zip_bytes(entries, zipfile.ZIP_STORED), tar_of])
def test_bit_flips_are_refused_or_harmless(tmp_path, pack, tree_digest):
    data = pack({**GOOD, "weights.bin": random.Random(2).randbytes(300)})
    archive, dest = tmp_path / "model.mar", tmp_path / "store" / "dest"
    dest.parent.mkdir()
    generator = random.Random(3)
    refused = 0
    for _ in range(1000):
        flipped = bytearray(data)
        position = generator.randrange(len(flipped) * 8)
        flipped[position // 8] ^= 1 << position % 8
        archive.write_bytes(flipped)
        try:
            unpack(archive, dest)
        except InvalidArchive:
            refused += 1
            assert os.listdir(dest.parent) == []
        else:
            assert set(contents(dest).values()) == {*GOOD.values(), random.Random(2).randbytes(300)}
            dest.rename(tmp_path / "out")
            for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (tmp_path / "out").rmdir()
    assert refused > 500


def test_data_in_front_behind_and_between(unpacked):
    data = zip_bytes(GOOD)
    for content in (data + b"tail", b"PK\3\4" + data, data + data):
        with pytest.raises(InvalidArchive):
            unpacked(content)
    for content in (tar_of(GOOD) + b"tail", tar_of(GOOD) + tar_of({"evil.txt": b"x"})):
        with pytest.raises(InvalidArchive):
            unpacked(content)


def test_directory_and_local_headers_that_disagree(unpacked):
    data = bytearray(zip_bytes({"a.txt": b"abc"}, zipfile.ZIP_STORED))
    for offset in (14, 18, 22, 30):  # checksum, packed size, size, name
        changed = data.copy()
        changed[offset] ^= 1
        with pytest.raises(InvalidArchive):
            unpacked(bytes(changed))


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
