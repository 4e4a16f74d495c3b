"""Where the gRPC APIs listen, and which there are."""

from __future__ import annotations

from dataclasses import dataclass

from model_server.config.addresses import Address


@dataclass(frozen=True, slots=True)
class GrpcPort:
    """One listener. Ages of connections, None: they may get as old as they like."""

    address: Address
    max_connection_age_ms: int | None = None
    max_connection_age_grace_ms: int | None = None


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """Everything about gRPC but the message size, which is that of HTTP bodies.

    `open_inference`: the Open Inference Protocol is served too, by gRPC and by HTTP.
    """

    inference: GrpcPort = GrpcPort(Address("grpc", "127.0.0.1", 7070))
    management: GrpcPort = GrpcPort(Address("grpc", "127.0.0.1", 7071))
    open_inference: bool = False


DEFAULT_GRPC = GrpcConfig()
