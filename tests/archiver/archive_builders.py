"""Archives made with zipfile and tarfile for the tests, good and bad ones."""

import io
import tarfile
import zipfile
from pathlib import Path

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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
