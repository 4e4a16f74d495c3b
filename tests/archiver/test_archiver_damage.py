"""Damaged files and files that are no archives (faults F01 and F02): refused with what is wrong with them."""

import gzip
import os
import random
import struct
import zipfile

import pytest
from archive_builders import GOOD, contents, tar_of, zip_bytes

from archiver.errors import InvalidArchive
from archiver.unpack import unpack

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
