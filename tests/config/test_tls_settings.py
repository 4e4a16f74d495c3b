"""Key and certificate out of config.properties: what is read, and what stops the start with which reason."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from pathlib import Path

import pytest
from certificates import Issued, issue, java_key_store, key_store, run

from model_server.config.errors import InvalidConfiguration
from model_server.config.load import load_config
from model_server.config.server import CommandLine, ServerConfig
from model_server.config.tls import KeyPair, load_key_pair

HTTPS = "inference_address=https://127.0.0.1:8443"


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return issue(tmp_path_factory.mktemp("tls") / "a")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return issue(tmp_path_factory.mktemp("tls") / "b")


def load(folder: Path, *lines: str) -> tuple[ServerConfig, list[str]]:
    """The configuration and its notes; none of them is a mistake."""
    file = folder / "my.properties"
    file.write_text("\n".join(lines))
    config, warnings = load_config(CommandLine(ts_config=file, model_store=folder), {}, folder)
    assert not any(warning.is_mistake for warning in warnings)
    return config, [str(warning) for warning in warnings]


def pem_lines(private_key: Path, chain: Path) -> tuple[str, str, str]:
    return HTTPS, f"private_key_file={private_key}", f"certificate_file={chain}"


def key_pair(config: ServerConfig) -> KeyPair:
    assert config.tls is not None
    return load_key_pair(config.tls)


def certificates(pair: KeyPair) -> list[bytes]:
    """DER of each certificate of the chain, in order."""
    end = "-----END CERTIFICATE-----"
    texts = pair.certificate_chain.decode().split(end)[:-1]
    return [ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN") :] + end) for text in texts]


def test_without_tls_nothing_is_read(tmp_path: Path) -> None:
    config, notes = load(tmp_path)
    assert (config.tls, notes) == (None, [])


def test_files_without_a_listener_that_uses_them_are_a_note(tmp_path: Path) -> None:
    config, (note,) = load(tmp_path, "private_key_file=nowhere.key")
    assert config.tls is None
    assert note.startswith("no effect without an https:// address or enable_grpc_ssl=true: private_key_file (")


def test_default_ports(tmp_path: Path) -> None:
    lines = [f"{api}_address=https://127.0.0.1" for api in ("inference", "management", "metrics")]
    config, _ = load(tmp_path, *lines)
    assert config.metrics.address is not None
    ports = [config.inference_address.port, config.management_address.port, config.metrics.address.port]
    assert ports == [443, 8444, 8445]  # TorchServe's, the contract with it, section 2.1


@pytest.mark.parametrize("form", ["PKCS8", "OpenSSL"])
def test_pem_files(tmp_path: Path, issued: Issued, form: str) -> None:
    key = tmp_path / "server.key"
    run("openssl", "rsa", *(["-traditional"] if form == "OpenSSL" else []), "-in", issued.private_key, "-out", key)
    assert (b"BEGIN RSA PRIVATE KEY" in key.read_bytes()) == (form == "OpenSSL")
    config, notes = load(tmp_path, *pem_lines(key, issued.chain))
    assert notes == []
    assert key_pair(config) == KeyPair(key.read_bytes(), issued.chain.read_bytes())


def test_paths_are_relative_to_where_the_server_is_started(tmp_path: Path, issued: Issued) -> None:
    (tmp_path / "k").write_bytes(issued.private_key.read_bytes())
    (tmp_path / "c").write_bytes(issued.chain.read_bytes())
    config, _ = load(tmp_path, *pem_lines(Path("k"), Path("c")))
    assert key_pair(config).private_key == issued.private_key.read_bytes()


def test_a_key_store_has_the_chain_from_the_server_up(tmp_path: Path, issued: Issued) -> None:
    store = key_store(issued, tmp_path / "store.p12")
    config, notes = load(tmp_path, HTTPS, f"keystore={store}")  # its password is the default
    assert notes == []
    assert certificates(key_pair(config)) == certificates(KeyPair(b"", issued.chain.read_bytes()))


def test_a_key_store_with_a_password_of_its_own(tmp_path: Path, issued: Issued) -> None:
    store = key_store(issued, tmp_path / "store.p12", "open sesame")
    config, _ = load(tmp_path, "enable_grpc_ssl=true", f"keystore={store}", "keystore_pass=open sesame")
    assert len(certificates(key_pair(config))) == 2
    assert "sesame" not in repr(config.tls)


@pytest.mark.parametrize("said", ["PKCS12", "JKS"])
def test_a_key_store_that_keytool_made(tmp_path: Path, said: str) -> None:
    store = java_key_store(tmp_path / "keystore.p12", "PKCS12")
    config, _ = load(tmp_path, HTTPS, f"keystore={store}", f"keystore_type={said}")  # Java reads it either way
    assert len(certificates(key_pair(config))) == 1


def test_a_key_store_wins_over_files(tmp_path: Path, issued: Issued, other: Issued) -> None:
    store = key_store(other, tmp_path / "store.p12")
    config, notes = load(tmp_path, f"keystore={store}", *pem_lines(issued.private_key, issued.chain))
    assert certificates(key_pair(config)) == certificates(KeyPair(b"", other.chain.read_bytes()))
    assert notes == ["keystore is used; private_key_file and certificate_file are not"]


def test_without_files_a_certificate_is_made(tmp_path: Path) -> None:
    config, (note,) = load(tmp_path, HTTPS)
    assert note.startswith("TLS without private_key_file and certificate_file: the certificate is made at start")
    assert key_pair(config) != key_pair(config)


def refusal(folder: Path, *lines: str) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        load(folder, *lines)
    return str(caught.value).removeprefix("Invalid configuration: ")


def test_files_that_cannot_be_used(tmp_path: Path, issued: Issued, other: Issued) -> None:
    key, chain = issued.private_key, issued.chain
    assert refusal(tmp_path, *pem_lines(key, chain)[:2]).endswith("certificate_file is not set")
    assert refusal(tmp_path, HTTPS, f"certificate_file={chain}").endswith("private_key_file is not set")
    gone = tmp_path / "gone.pem"
    assert refusal(tmp_path, *pem_lines(gone, chain)) == (
        f"private_key_file={gone} cannot be read: No such file or directory"
    )
    assert refusal(tmp_path, *pem_lines(chain, chain)) == f"private_key_file={chain} has no private key in PEM form"
    assert refusal(tmp_path, *pem_lines(key, key)) == f"certificate_file={key} has no certificate in PEM form"
    assert "private key does not belong to the certificate" in refusal(tmp_path, *pem_lines(other.private_key, chain))
    torn = tmp_path / "torn.pem"
    torn.write_bytes(chain.read_bytes()[:200])
    assert f"certificate_file={torn}: not usable: " in refusal(tmp_path, *pem_lines(key, torn))


def test_a_key_of_another_kind_than_the_certificate(tmp_path: Path, issued: Issued) -> None:
    other = issue(tmp_path / "ec", key="ec")
    lines = pem_lines(other.private_key, issued.chain)
    assert "private key does not belong to the certificate" in refusal(tmp_path, *lines)


def test_what_is_no_file(tmp_path: Path, issued: Issued) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        assert refusal(tmp_path, *pem_lines(place, issued.chain)) == f"private_key_file={place} is no file"


def test_a_certificate_beside_the_key_is_not_the_servers(tmp_path: Path, issued: Issued, other: Issued) -> None:
    """And one file may hold both, named twice."""
    both = tmp_path / "both.pem"
    both.write_bytes(other.chain.read_bytes() + issued.private_key.read_bytes())
    assert sent(load(tmp_path, *pem_lines(both, issued.chain))[0]) == first_certificate(issued)
    both.write_bytes(issued.chain.read_bytes() + issued.private_key.read_bytes())
    assert sent(load(tmp_path, *pem_lines(both, both))[0]) == first_certificate(issued)


def first_certificate(issued: Issued) -> bytes:
    return certificates(KeyPair(b"", issued.chain.read_bytes()))[0]


def sent(config: ServerConfig) -> bytes | None:
    """DER of the certificate that a client gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key_pair(config).load_into(context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client.getpeercert(binary_form=True)


def test_the_key_is_not_left_on_a_disk(tmp_path: Path, issued: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    config, _ = load(tmp_path, *pem_lines(issued.private_key, issued.chain), "metrics_address=http://127.0.0.1")
    assert sent(config) == first_certificate(issued)


def test_without_files_in_memory_there_are_temporary_ones(
    tmp_path: Path, issued: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    config, _ = load(tmp_path, *pem_lines(issued.private_key, issued.chain))
    assert sent(config) == first_certificate(issued)
    assert list((tmp_path / "temp").iterdir()) == []


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_keys_that_grpc_knows(tmp_path: Path, kind: str) -> None:
    issued = issue(tmp_path / "tls", key=kind)
    config, notes = load(tmp_path, "enable_grpc_ssl=true", *pem_lines(issued.private_key, issued.chain)[1:])
    assert (config.tls is not None, notes) == (True, [])


def test_keys_that_grpc_does_not_know(tmp_path: Path) -> None:
    issued = issue(tmp_path / "tls", key="ed25519")
    lines = pem_lines(issued.private_key, issued.chain)
    load(tmp_path, *lines)  # https does
    reason = refusal(tmp_path, *lines, "enable_grpc_ssl=true")
    assert reason.startswith("enable_grpc_ssl=true: gRPC does not know the kind of the private key (Ed25519PrivateKey)")


def test_an_authority_with_a_new_key_and_the_old_name(tmp_path: Path, issued: Issued, other: Issued) -> None:
    """Both lie in the key store, the wrong one first."""
    end = "-----END CERTIFICATE-----\n"
    leaf, authority, _ = issued.chain.read_text().split(end)
    _, wrong, _ = other.chain.read_text().split(end)
    mixed = tmp_path / "mixed.pem"
    mixed.write_text(leaf + end + wrong + end + authority + end)
    store = key_store(Issued(issued.private_key, mixed, issued.root), tmp_path / "store.p12")
    config, _ = load(tmp_path, HTTPS, f"keystore={store}")
    assert certificates(key_pair(config)) == certificates(KeyPair(b"", issued.chain.read_bytes()))


def test_an_encrypted_key(tmp_path: Path, issued: Issued) -> None:
    key = tmp_path / "secret.key"
    run("openssl", "pkey", "-in", issued.private_key, "-aes256", "-passout", "pass:x", "-out", key)
    reason = refusal(tmp_path, *pem_lines(key, issued.chain))
    assert reason.startswith(f"private_key_file={key} is encrypted: ")
    assert "openssl pkey" in reason


def test_key_stores_that_cannot_be_used(tmp_path: Path, issued: Issued) -> None:
    store = key_store(issued, tmp_path / "store.p12")
    wrong = f"keystore={store} cannot be opened: keystore_pass is wrong, or it is no PKCS12 file"
    assert refusal(tmp_path, HTTPS, f"keystore={store}", "keystore_pass=wrong") == wrong
    assert "no PKCS12 file" in refusal(tmp_path, HTTPS, f"keystore={issued.chain}")
    only_certificates = tmp_path / "trusted.p12"
    run("openssl", "pkcs12", "-export", "-nokeys", "-in", issued.chain, "-out", only_certificates, "-passout", "pass:x")
    lines = (f"keystore={only_certificates}", "keystore_pass=x")
    assert refusal(tmp_path, HTTPS, *lines).endswith("has no private key with a certificate")


def test_a_key_store_that_only_java_reads(tmp_path: Path) -> None:
    store = java_key_store(tmp_path / "keystore.jks", "JKS")
    reason = refusal(tmp_path, HTTPS, f"keystore={store}")
    assert "convert it with: keytool -importkeystore" in reason


@pytest.mark.parametrize(("lines", "what"), [((), "a certificate made at start"), (("keystore=x",), "a key store")])
def test_without_cryptography(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: tuple[str], what: str) -> None:
    (tmp_path / "x").write_bytes(b"")
    for name in ("cryptography", "cryptography.hazmat.primitives.serialization"):
        monkeypatch.setitem(sys.modules, name, None)
    assert refusal(tmp_path, HTTPS, *lines).endswith(f"pip install 'modelserver[tls]' installs what {what} needs")
