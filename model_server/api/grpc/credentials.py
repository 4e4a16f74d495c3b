"""TLS of the gRPC ports."""

from __future__ import annotations

import grpc

from model_server.api.tls import Tls
from model_server.config.tls import KeyPair


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Every new connection gets the key pair that `tls` has then."""
    latest = tls.key_pair

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Called by threads of gRPC's, None: nothing is new."""
        nonlocal latest
        if tls.key_pair is latest:
            return None
        latest = tls.key_pair
        return _certificate(latest)

    # None is documented by gRPC, and missing in its annotation.
    return grpc.dynamic_ssl_server_credentials(_certificate(latest), renewed)  # type: ignore[arg-type]


def _certificate(pair: KeyPair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.private_key, pair.certificate_chain)])
