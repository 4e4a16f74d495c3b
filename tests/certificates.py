"""Keys and certificates for tests, made by the openssl and keytool commands."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "changeit"


@dataclass(frozen=True, slots=True)
class Issued:
    """A server's key and certificate chain, and the certificate of who issued it, which clients trust."""

    private_key: Path
    chain: Path
    root: Path


def run(*command: object) -> None:
    words = [str(word) for word in command]
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs the command {words[0]}")
    subprocess.run(words, check=True, capture_output=True)


def issue(folder: Path, host: str = "localhost", key: str = "rsa") -> Issued:
    """A root, an authority below it, and a server's certificate for `host` and 127.0.0.1 below that.

    Args:
        key: kind of the server's key: rsa, ec (P-256), or what `openssl genpkey -algorithm` takes.
    """
    folder.mkdir(parents=True)
    root, authority, server = (folder / name for name in ("root", "authority", "server"))
    run("openssl", "req", "-x509", *_new_key(root), "-out", f"{root}.pem", "-days", "2", "-subj", "/CN=Root")
    _sign(authority, root, "/CN=Authority", "basicConstraints=critical,CA:true")
    _sign(server, authority, f"/CN={host}", f"subjectAltName=DNS:{host},IP:127.0.0.1", key)
    chain = folder / "chain.pem"
    chain.write_bytes(Path(f"{server}.pem").read_bytes() + Path(f"{authority}.pem").read_bytes())
    return Issued(Path(f"{server}.key"), chain, Path(f"{root}.pem"))


_KINDS = {"rsa": ["rsa:2048"], "ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]}


def _new_key(path: Path, kind: str = "rsa") -> list[str]:
    return ["-newkey", *_KINDS.get(kind, [kind]), "-noenc", "-keyout", f"{path}.key"]


def _sign(path: Path, issuer: Path, subject: str, extension: str, key: str = "rsa") -> None:
    extensions = Path(f"{path}.ext")
    extensions.write_text(extension + "\n")
    run("openssl", "req", *_new_key(path, key), "-out", f"{path}.csr", "-subj", subject)
    sign = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-extfile", extensions, "-days", "2"]
    run("openssl", "x509", "-req", "-in", f"{path}.csr", "-out", f"{path}.pem", *sign)


def key_store(issued: Issued, path: Path, password: str = PASSWORD) -> Path:
    """PKCS #12, as openssl writes it."""
    contents = ["-inkey", issued.private_key, "-in", issued.chain]
    run("openssl", "pkcs12", "-export", *contents, "-name", "ts", "-out", path, "-passout", f"pass:{password}")
    return path


def java_key_store(path: Path, store_type: str) -> Path:
    """A self-signed certificate for localhost in a key store, as TorchServe's documentation makes one."""
    key = ["-genkeypair", "-keyalg", "RSA", "-alias", "ts", "-dname", "CN=localhost", "-ext", "san=dns:localhost"]
    secrets = ["-storepass", PASSWORD, "-keypass", PASSWORD]
    run("keytool", *key, *secrets, "-validity", "2", "-storetype", store_type, "-keystore", path)
    return path
