"""Typed settings of TLS out of config.properties."""

from __future__ import annotations

from pathlib import Path

from model_server.config.errors import InvalidConfiguration
from model_server.config.server import ConfigWarning
from model_server.config.tls import TlsConfig, load_key_pair
from model_server.config.values import Values

_FILES = ("keystore", "private_key_file", "certificate_file")


def read_tls(
    values: Values, cwd: Path, *, for_http: bool, for_grpc: bool
) -> tuple[TlsConfig | None, list[ConfigWarning]]:
    """None when no listener uses TLS. Key and certificate are read once, so that what is wrong stops the start.

    Raises:
        InvalidConfiguration: they are not usable; there is nothing safe to fall back to.
    """
    keystore, private_key_file, certificate_file = ((text := values.text(key)) and cwd / text for key in _FILES)
    if not (for_http or for_grpc):
        idle = [f"{key} ({values.effective[key].origin})" for key in _FILES if values.text(key)]
        note = f"no effect without an https:// address or enable_grpc_ssl=true: {', '.join(idle)}"
        return None, [ConfigWarning(note, is_mistake=False)] if idle else []
    if keystore is None and (private_key_file is None) != (certificate_file is None):
        missing = "private_key_file" if private_key_file is None else "certificate_file"
        raise InvalidConfiguration(f"TLS needs private_key_file and certificate_file: {missing} is not set")
    config = TlsConfig(
        keystore=keystore or None,
        keystore_pass=values.effective["keystore_pass"].text,
        private_key_file=private_key_file or None,
        certificate_file=certificate_file or None,
        for_grpc=for_grpc,
    )
    load_key_pair(config)
    return config, [ConfigWarning(note, is_mistake=False) for note in _notes(config)]


def _notes(config: TlsConfig) -> list[str]:
    if config.is_self_signed:
        return [
            "TLS without private_key_file and certificate_file: the certificate is made at start, for localhost, and "
            "clients cannot check it"
        ]
    if config.keystore is not None and config.private_key_file is not None:
        return ["keystore is used; private_key_file and certificate_file are not"]
    return []
