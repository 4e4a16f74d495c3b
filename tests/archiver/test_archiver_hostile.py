"""Archives made to do harm (the corpus S-06, faults F03 to F05): refused as a whole, nothing anywhere changed."""

import gzip
import io
import random
import stat
import struct
import tarfile
import zipfile

import pytest
from archive_builders import GOOD, contents, tar_bytes, tar_member, tar_of, zip_bytes, zip_with_mode

from archiver.errors import InvalidArchive

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
