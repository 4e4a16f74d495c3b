"""Typed settings of gRPC out of config.properties and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from model_server.config.addresses import DefaultPorts, parse_address
from model_server.config.grpc import GrpcConfig, GrpcPort
from model_server.config.values import Values


def read_grpc(values: Values, environ: Mapping[str, str]) -> GrpcConfig:
    """Raises InvalidConfiguration for an address that is not usable: there is no safe one to fall back to."""
    # TorchServe reads this variable whether or not the environment may override the file.
    protocol = environ.get("TS_OPEN_INFERENCE_PROTOCOL")
    scheme = "grpcs" if values.boolean("enable_grpc_ssl") else "grpc"
    return GrpcConfig(
        inference=_read_port(values, "inference", scheme),
        management=_read_port(values, "management", scheme),
        open_inference=protocol == "oip" if protocol else values.boolean("ts_open_inference_protocol"),
    )


def _read_port(values: Values, api: str, scheme: str) -> GrpcPort:
    host, port = values.text(f"grpc_{api}_address") or "", values.integer(f"grpc_{api}_port", at_least=0)
    address = parse_address(
        f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", DefaultPorts(port, port)
    )
    return GrpcPort(
        address=replace(address, scheme=scheme),
        max_connection_age_ms=values.optional_integer(f"grpc_{api}_max_connection_age_ms", at_least=1),
        max_connection_age_grace_ms=values.optional_integer(f"grpc_{api}_max_connection_age_grace_ms", at_least=1),
    )
