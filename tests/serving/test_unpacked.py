"""A second model of the same archive: whose files it gets, and that neither model ever sees what is the other's."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_server.config.server import DownloadRules
from model_server.serving import store, unpacked
from model_server.serving.store import ModelStore, OpenedArchive

WEIGHTS, OTHER_WEIGHTS = b"w" * 1000, b"v" * 1000
OWN_HANDLER = b"def handle(data, context): pass\n"


def mar(handler: str, content: bytes = WEIGHTS, **files: bytes) -> bytes:
    entry = {"modelName": "m", "handler": handler, "modelVersion": "1.0", "serializedFile": "weights.bin"}
    manifest = json.dumps({"runtime": "python", "model": entry}).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        code = {name.replace("_py", ".py"): source for name, source in files.items()}
        for name, data in {"MAR-INF/MANIFEST.json": manifest, "weights.bin": content, **code}.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Shop:
    """A model store that counts what it unpacks."""

    def __init__(self, root: Path) -> None:
        self.archive = root / "m.mar"
        (root / "temp").mkdir()
        self.store = ModelStore([root], root / "temp", DownloadRules())
        self.count = 0

    def open(self, handler: str | None = None) -> OpenedArchive:
        return asyncio.run(self.store.open("m.mar", startup=False, handler=handler))

    def discard(self, archive: OpenedArchive) -> None:
        asyncio.run(self.store.discard(archive))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop, really = Shop(tmp_path), store.unpack

    def counted(source: Path, target: Path) -> None:
        shop.count += 1
        really(source, target)

    monkeypatch.setattr(store, "unpack", counted)
    monkeypatch.setattr(unpacked, "_SETTLED_NS", -1)
    yield shop
    shop.store.close()


@pytest.fixture
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, request: int, argument: int) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuse)


@pytest.fixture
def reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    def clone(fd: int, request: int, argument: int) -> int:
        assert request == 0x40049409  # FICLONE of Linux
        os.write(fd, os.pread(argument, 1 << 20, 0))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)


def inodes(archive: OpenedArchive) -> set[int]:
    return {path.stat().st_ino for path in archive.root.rglob("*") if path.is_file()}


def weights(archive: OpenedArchive) -> bytes:
    return (archive.root / "weights.bin").read_bytes()


def test_models_that_run_only_our_code_share_their_files(shop: Shop, no_reflinks: None) -> None:
    shop.archive.write_bytes(mar("transformer_handler"))
    first, second = shop.open(), shop.open()
    assert shop.count == 1
    assert first.root != second.root and inodes(first) == inodes(second)
    assert second.manifest == first.manifest
    (second.root / "notes").write_text("")
    assert not (first.root / "notes").exists()


def test_each_model_keeps_its_files_when_the_others_go(shop: Shop, no_reflinks: None) -> None:
    shop.archive.write_bytes(mar("transformer_handler"))
    first, second = shop.open(), shop.open()
    shop.discard(first)
    third = shop.open()
    assert shop.count == 1
    shop.discard(second)
    assert weights(third) == WEIGHTS
    shop.discard(third)
    assert weights(shop.open()) == WEIGHTS
    assert shop.count == 2


def open_with_own_handler(shop: Shop) -> tuple[OpenedArchive, OpenedArchive]:
    shop.archive.write_bytes(mar("handler.py", handler_py=OWN_HANDLER))
    return shop.open(), shop.open()


def open_with_own_code(shop: Shop) -> tuple[OpenedArchive, OpenedArchive]:
    shop.archive.write_bytes(mar("image_classifier", model_py=b"class Net: pass\n"))
    return shop.open(), shop.open()


def open_first_with_another_handler(shop: Shop) -> tuple[OpenedArchive, OpenedArchive]:
    shop.archive.write_bytes(mar("transformer_handler"))
    return shop.open("elsewhere:handle"), shop.open()


def open_second_with_another_handler(shop: Shop) -> tuple[OpenedArchive, OpenedArchive]:
    shop.archive.write_bytes(mar("transformer_handler"))
    return shop.open(), shop.open("elsewhere:handle")


Opening = Callable[[Shop], tuple[OpenedArchive, OpenedArchive]]
OWN_CODE: list[Opening] = [
    open_with_own_handler,
    open_with_own_code,
    open_first_with_another_handler,
    open_second_with_another_handler,
]


@pytest.mark.parametrize("opened", OWN_CODE)
def test_models_with_code_of_their_own_share_nothing(shop: Shop, no_reflinks: None, opened: Opening) -> None:
    first, second = opened(shop)
    assert shop.count == 2
    assert not inodes(first) & inodes(second)


@pytest.mark.parametrize("opened", OWN_CODE)
def test_reflinks_need_no_unpacking_and_keep_models_apart(shop: Shop, reflinks: None, opened: Opening) -> None:
    first, second = opened(shop)
    assert shop.count == 1
    assert not inodes(first) & inodes(second)
    (second.root / "weights.bin").write_bytes(b"changed")
    assert weights(first) == WEIGHTS
    assert (first.root / "weights.bin").stat().st_mode & 0o777 == 0o644


def test_what_a_model_has_changed_is_nobody_elses(shop: Shop, reflinks: None) -> None:
    open_with_own_handler(shop)
    changed = shop.open()
    assert shop.count == 1
    (changed.root / "weights.bin").write_bytes(OTHER_WEIGHTS)
    assert weights(shop.open()) == WEIGHTS
    assert shop.count == 2


def test_an_archive_that_was_replaced_is_unpacked(shop: Shop) -> None:
    shop.archive.write_bytes(mar("transformer_handler"))
    before = shop.archive.stat()
    shop.open()
    shop.archive.write_bytes(mar("transformer_handler", content=OTHER_WEIGHTS))
    os.utime(shop.archive, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shop.archive.stat().st_size == before.st_size
    assert weights(shop.open()) == OTHER_WEIGHTS


def test_an_archive_that_may_still_be_written_is_unpacked_each_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "_SETTLED_NS", 60_000_000_000)
    shop.archive.write_bytes(mar("transformer_handler"))
    first, second = shop.open(), shop.open()
    assert shop.count == 2 and not inodes(first) & inodes(second)


def test_a_file_system_without_hard_links_is_no_obstacle(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    shop.archive.write_bytes(mar("transformer_handler"))
    first, second = shop.open(), shop.open()
    assert shop.count == 2
    assert weights(first) == weights(second) == WEIGHTS
    assert not inodes(first) & inodes(second)
