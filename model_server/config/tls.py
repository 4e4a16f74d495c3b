"""TLS: where the private key and the certificate chain come from, and reading them."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from model_server.config.errors import InvalidConfiguration

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

NEEDS_CRYPTOGRAPHY = "pip install 'modelserver[tls]' installs what {} needs"

_JKS_MAGIC = b"\xfe\xed\xfe\xed"
_SELF_SIGNED_DAYS = 365


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """A key store, or two PEM files; without either a certificate for this machine is made when the server starts.

    `for_grpc`: the gRPC ports use it too.
    """

    keystore: Path | None = None
    keystore_pass: str = field(default="changeit", repr=False)
    private_key_file: Path | None = None
    certificate_file: Path | None = None
    for_grpc: bool = False

    @property
    def is_self_signed(self) -> bool:
        return self.keystore is None and self.private_key_file is None


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both PEM; the server's own certificate is the first of the chain."""

    private_key: bytes = field(repr=False)
    certificate_chain: bytes

    def load_into(self, context: ssl.SSLContext) -> None:
        """From now on new connections of `context` use this pair.

        Raises:
            ssl.SSLError: the two do not belong together, or are no such thing.
        """
        # Two files: a certificate that lies beside the key must not be taken for the server's.
        with _as_file(self.certificate_chain) as chain, _as_file(self.private_key) as private_key:
            context.load_cert_chain(chain, private_key)


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The library reads files only; where there is a choice, one that is never on a disk."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        with os.fdopen(os.memfd_create("pem"), "wb", buffering=0) as memory:
            memory.write(content)
            yield f"/proc/self/fd/{memory.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(suffix=".pem", buffering=0) as file:
            file.write(content)
            yield file.name


def load_key_pair(config: TlsConfig) -> KeyPair:
    """Reads and checks both, or makes them.

    Raises:
        InvalidConfiguration: with the key of config.properties that is wrong, and why.
    """
    if config.keystore is not None:
        what = f"keystore={config.keystore}"
        pair = _from_keystore(_read("keystore", config.keystore), config.keystore_pass, what)
    elif config.private_key_file is not None and config.certificate_file is not None:
        what = f"private_key_file={config.private_key_file}, certificate_file={config.certificate_file}"
        pair = _from_pem_files(config.private_key_file, config.certificate_file)
    else:
        return _self_signed()
    try:
        pair.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except ssl.SSLError as error:
        raise InvalidConfiguration(f"{what}: {_explained(error)}") from error
    if config.for_grpc:
        _check_for_grpc(pair)
    return pair


def _read(key: str, path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise InvalidConfiguration(f"{key}={path} is no file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidConfiguration(f"{key}={path} cannot be read: {error.strerror or error}") from error


def _from_pem_files(private_key_file: Path, certificate_file: Path) -> KeyPair:
    private_key, chain = _read("private_key_file", private_key_file), _read("certificate_file", certificate_file)
    if b"PRIVATE KEY-----" not in private_key:
        raise InvalidConfiguration(f"private_key_file={private_key_file} has no private key in PEM form")
    if b"ENCRYPTED" in private_key:
        advice = "take the password off with: openssl pkey -in FILE -out FILE, or use a key store"
        raise InvalidConfiguration(f"private_key_file={private_key_file} is encrypted: {advice}")
    if b"BEGIN CERTIFICATE-----" not in chain:
        raise InvalidConfiguration(f"certificate_file={certificate_file} has no certificate in PEM form")
    return KeyPair(private_key, chain)


def _explained(error: ssl.SSLError) -> str:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return "the private key does not belong to the certificate, which has to be the first of its file"
    why = error.reason.replace("_", " ").lower() if error.reason else "one of them is damaged"
    return f"not usable: {why}"


# --- with the library `cryptography` ---


def _from_keystore(content: bytes, password: str, what: str) -> KeyPair:
    """The first key entry of a PKCS #12 file (RFC 7292); `keystore_type` is not asked, the content tells."""
    if content.startswith(_JKS_MAGIC):
        advice = "keytool -importkeystore -srckeystore OLD -destkeystore NEW -deststoretype PKCS12"
        raise InvalidConfiguration(f"{what} is a JKS file, which only Java reads; convert it with: {advice}")
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
    except ImportError as error:
        raise InvalidConfiguration(f"{what}: {NEEDS_CRYPTOGRAPHY.format('a key store')}") from error
    try:
        store = pkcs12.load_pkcs12(content, password.encode())
    except UnsupportedAlgorithm as error:
        raise InvalidConfiguration(f"{what} has a key of a kind that is not known here: {error}") from error
    except ValueError as error:
        raise InvalidConfiguration(
            f"{what} cannot be opened: keystore_pass is wrong, or it is no PKCS12 file"
        ) from error
    if store.key is None or store.cert is None:
        raise InvalidConfiguration(f"{what} has no private key with a certificate")
    chain = _chain(store.cert.certificate, [other.certificate for other in store.additional_certs])
    return KeyPair(_key_pem(store.key), b"".join(each.public_bytes(Encoding.PEM) for each in chain))


def _chain(own: Certificate, others: Sequence[Certificate]) -> list[Certificate]:
    """From the server's certificate up to the root; a key store has no order, and may hold certificates of others."""
    chain = [own]
    while issuer := next((each for each in others if each not in chain and _is_issued_by(chain[-1], each)), None):
        chain.append(issuer)
    return chain


def _is_issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """By the signature: an authority whose key was renewed has kept its name."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _key_pem(key: PrivateKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _self_signed() -> KeyPair:
    """For trying things out: no client can check it, so it protects from listeners only."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding
    except ImportError as error:
        advice = NEEDS_CRYPTOGRAPHY.format("a certificate made at start")
        raise InvalidConfiguration(f"TLS without private_key_file and certificate_file: {advice}") from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names: list[x509.GeneralName] = [x509.IPAddress(ip_address("127.0.0.1")), x509.IPAddress(ip_address("::1"))]
    names += [x509.DNSName(host) for host in dict.fromkeys(("localhost", socket.gethostname())) if host.isascii()]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, SHA256())
    )
    return KeyPair(_key_pem(key), certificate.public_bytes(Encoding.PEM))


def _check_for_grpc(pair: KeyPair) -> None:
    """Raises InvalidConfiguration for a key that gRPC's library does not know, as far as that can be told here."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        return
    try:
        key = load_pem_private_key(pair.private_key, None)
    except (ValueError, UnsupportedAlgorithm):
        return
    kind = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.strip("_")
    if not isinstance(key, rsa.RSAPrivateKey) and kind not in ("secp256r1", "secp384r1"):
        raise InvalidConfiguration(
            f"enable_grpc_ssl=true: gRPC does not know the kind of the private key ({kind}); "
            "it takes RSA, and EC with P-256 or P-384"
        )
