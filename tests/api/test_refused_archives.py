"""Archives that cannot be served: refused with the reason, nothing left behind, another model answers throughout."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from servers import MIRROR, Server, Servers, eventually

Entry = tuple[str | zipfile.ZipInfo, bytes]

MANIFEST = {
    "createdOn": "01/01/2024 00:00:00",
    "runtime": "python",
    "model": {"modelName": "bad", "handler": "handler.py", "modelVersion": "1.0"},
    "archiverVersion": "0.12.0",
}


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    module_servers.archives.pack("good", MIRROR)
    return module_servers.start(["good.mar"])


@pytest.fixture
def surroundings(server: Server) -> Iterator[None]:
    """Another model answers all the time, and what there is before is what there is afterwards."""
    models, unpacked, processes = server.model_names(), server.unpacked(), [p.pid for p in server.processes()]
    done = threading.Event()
    failures: list[str] = []
    answered = 0

    def ask() -> None:
        nonlocal answered
        with requests.Session() as session:
            while not done.is_set():
                answer = session.post(f"{server.inference}/predictions/good", data=b"x", timeout=30)
                answered += 1
                if answer.status_code != 200:
                    failures.append(answer.text)

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        done.set()
        client.join()
    left = server.model_names()
    server.manage("DELETE", "models/bad")  # so that the next test starts clean
    assert answered > 0
    assert failures == []
    assert left == models
    assert server.unpacked() == unpacked
    eventually(lambda: [p.pid for p in server.processes()] == processes, "the same processes as before", 5)
    assert not list(server.folder.rglob("escaped*"))


def manifest(**model: Any) -> bytes:
    """The manifest with some of its `model` changed; None takes a key out."""
    changed = {key: value for key, value in {**MANIFEST["model"], **model}.items() if value is not None}  # type: ignore[dict-item]
    return json.dumps({**MANIFEST, "model": changed}).encode()


def zip_of(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def archive_of(*entries: Entry, handler: str = MIRROR, manifest: bytes = manifest()) -> bytes:
    return zip_of(("MAR-INF/MANIFEST.json", manifest), ("handler.py", handler.encode()), *entries)


def link(name: str, target: str) -> Entry:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target.encode()


def tar_with(member: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in (("MAR-INF/MANIFEST.json", manifest()), ("handler.py", MIRROR.encode())):
            file = tarfile.TarInfo(name)
            file.size = len(content)
            archive.addfile(file, io.BytesIO(content))
        archive.addfile(member, io.BytesIO(b""))
    return buffer.getvalue()


def tar_member(name: str, type_: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type_, target
    return member


GOOD = archive_of()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file (0 bytes)"),
        (b"x", "is no ZIP and no tar.gz"),
        (b"plain text, no archive", "is no ZIP and no tar.gz"),
        (b"\x80\x04K\x01.", "is no ZIP and no tar.gz"),
        (b"PK\x03\x04" + bytes(100), ""),
        (b"\x1f\x8b" + bytes(100), ""),
        (GOOD[: len(GOOD) // 2], ""),
        (GOOD[:-10], ""),
        (GOOD[:60] + bytes([GOOD[60] ^ 0xFF]) + GOOD[61:], ""),
        (zip_of(("handler.py", MIRROR.encode())), "Model name is not defined."),
        (archive_of(manifest=b""), "MAR-INF/MANIFEST.json"),
        (archive_of(manifest=b"{not json"), "Failed to parse signature.json."),
        (archive_of(manifest=b"[]"), "MAR-INF/MANIFEST.json"),
        (archive_of(manifest=b"null"), "MAR-INF/MANIFEST.json"),
        (archive_of(manifest=b'{"runtime": "python"}'), "Missing Model entry in manifest file."),
        (archive_of(manifest=manifest(modelName=None)), "Model name is not defined."),
        (archive_of(manifest=manifest(modelName="../bad")), "'../bad'"),
        (archive_of(manifest=manifest(handler="../../bad.py")), "../../bad.py"),
        (archive_of(manifest=manifest(handler="absent.py")), "absent.py"),
        (archive_of(manifest=manifest(handler="os:system")), "os"),
        (archive_of(manifest=manifest(serializedFile="weights.pt")), "weights.pt"),
        (archive_of(manifest=manifest(modelFile="net.py")), "net.py"),
        (archive_of(manifest=manifest(configFile="absent.yaml")), "absent.yaml"),
        (archive_of(manifest=manifest(serializedFile="/etc/passwd")), "/etc/passwd"),
        (archive_of(("../escaped.txt", b"x")), "'../escaped.txt'"),
        (archive_of(("a/../../escaped.txt", b"x")), "'a/../../escaped.txt'"),
        (archive_of(("/tmp/escaped.txt", b"x")), "'/tmp/escaped.txt'"),
        (archive_of(link("escaped", "/etc/passwd")), "'escaped'"),
        (archive_of(link("inside", "handler.py")), "'inside'"),
        (tar_with(tar_member("../escaped.txt")), "'../escaped.txt'"),
        (tar_with(tar_member("/tmp/escaped.txt")), "'/tmp/escaped.txt'"),
        (tar_with(tar_member("escaped", tarfile.SYMTYPE, "/etc/passwd")), "'escaped'"),
        (tar_with(tar_member("escaped", tarfile.LNKTYPE, "handler.py")), "'escaped'"),
        (tar_with(tar_member("escaped", tarfile.FIFOTYPE)), "'escaped'"),
        (tar_with(tar_member("escaped", tarfile.CHRTYPE)), "'escaped'"),
        (archive_of(("Handler.py", b"")), "'Handler.py'"),
        (archive_of(("zeros", bytes(200_000_000))), "zeros"),
    ],
)
def test_refused_before_a_worker_starts(
    server: Server, module_servers: Servers, surroundings: None, content: bytes, reason: str
) -> None:
    (module_servers.archives.folder / "bad.mar").write_bytes(content)
    answer = server.register("bad.mar", initial_workers=1)
    assert answer.status_code == 400, answer.text
    document = answer.json()
    assert document["type"] in ("InvalidModelException", "BadRequestException")
    assert reason in document["message"]
    assert_no_path(document["message"], server)


@pytest.mark.parametrize(
    ("handler", "status", "reason"),
    [
        ("def handle(data, context)\n    return data\n", 500, "SyntaxError"),
        ("import a_package_that_is_not_there\n", 500, "No module named 'a_package_that_is_not_there'"),
        ("VALUE = 1\n", 500, "Expected only one class in custom service code or a function entry point"),
        ("class A:\n    pass\n\nclass B:\n    pass\n", 500, "Expected only one class"),
        ("class A:\n    def initialize(self, context):\n        pass\n", 500, "Expect handle method in class"),
        ("def handle(data, context):\n    raise ValueError('no weights')\n", 500, "ValueError: no weights"),
        ("import sys\nsys.exit('left')\n", 500, "SystemExit: left"),
        ("import os\nos._exit(5)\n", 500, "status 5"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", 500, "SIGSEGV"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", 507, "SIGKILL"),
        ("def handle(data, context):\n    raise MemoryError('out')\n", 507, "MemoryError: out"),
    ],
)
def test_refused_by_the_worker(
    server: Server, module_servers: Servers, surroundings: None, handler: str, status: int, reason: str
) -> None:
    (module_servers.archives.folder / "bad.mar").write_bytes(archive_of(handler=handler))
    answer = server.register("bad.mar", initial_workers=1)
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert document["type"] == "InternalServerException"
    assert document["message"].startswith("Failed to start workers for model bad version: 1.0")
    assert reason in document["message"]


def test_a_folder_outside_the_store_is_not_found(server: Server, surroundings: None, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text(MIRROR)
    answer = server.register(str(tmp_path), model_name="bad", handler="handler.py", initial_workers=1)
    assert (answer.status_code, answer.json()["type"]) == (404, "ModelNotFoundException")


@pytest.mark.parametrize("name", ["no_manifest.mar", "top_folder.tar.gz", "tree"])
def test_other_forms_are_accepted(server: Server, module_servers: Servers, name: str) -> None:
    """A zip without a manifest, a tar.gz with a folder around it all, a folder: each with a handler that is named."""
    store = module_servers.archives.folder
    if name == "no_manifest.mar":
        (store / name).write_bytes(zip_of(("handler.py", MIRROR_WITHOUT_MANIFEST.encode())))
    elif name == "tree":
        (store / name).mkdir()
        (store / name / "handler.py").write_text(MIRROR_WITHOUT_MANIFEST)
    else:
        with tarfile.open(store / name, "w:gz") as archive:
            info = tarfile.TarInfo("top/handler.py")
            info.size = len(MIRROR_WITHOUT_MANIFEST)
            archive.addfile(info, io.BytesIO(MIRROR_WITHOUT_MANIFEST.encode()))
    answer = server.register(name, model_name="accepted", handler="handler.py", initial_workers=1)
    assert answer.status_code == 200, answer.text
    assert server.predict("accepted", b"x").content == b"None x"
    assert server.describe("accepted")[0]["modelVersion"] == "1.0"
    assert server.manage("DELETE", "models/accepted").status_code == 200
    assert (store / name).exists()


MIRROR_WITHOUT_MANIFEST = """
def handle(data, context):
    return data and [f"{context.manifest} {bytes(row['body']).decode()}" for row in data]
"""


def assert_no_path(message: str, server: Server) -> None:
    assert str(server.folder) not in message
    assert str(server.model_store) not in message
