"""gRPC's keys of config.properties."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_server.config.addresses import Address
from model_server.config.errors import InvalidConfiguration
from model_server.config.grpc import GrpcConfig, GrpcPort
from model_server.config.load import load_config
from model_server.config.server import CommandLine


def load(folder: Path, text: str, environ: dict[str, str] | None = None) -> tuple[GrpcConfig, list[str]]:
    (folder / "my.properties").write_text(text)
    (folder / "store").mkdir()
    cli = CommandLine(ts_config=folder / "my.properties", model_store=folder / "store", no_config_snapshots=True)
    config, warnings = load_config(cli, environ or {}, folder)
    return config.grpc, [warning.message for warning in warnings if warning.is_mistake]


def test_defaults_are_torchserves(tmp_path: Path) -> None:
    inference, management = (GrpcPort(Address("grpc", "127.0.0.1", port)) for port in (7070, 7071))
    assert load(tmp_path, "") == (GrpcConfig(inference, management, open_inference=False), [])


def test_addresses_ports_and_ages(tmp_path: Path) -> None:
    config, mistakes = load(
        tmp_path,
        "grpc_inference_address=localhost\ngrpc_inference_port=17070\n"
        "grpc_inference_max_connection_age_ms=1000\ngrpc_inference_max_connection_age_grace_ms=200\n"
        "grpc_management_address=::1\ngrpc_management_port=0\ngrpc_management_max_connection_age_ms=3000\n",
    )
    assert mistakes == []
    assert config.inference == GrpcPort(Address("grpc", "localhost", 17070), 1000, 200)
    assert config.management == GrpcPort(Address("grpc", "::1", 0), 3000, None)
    assert (config.inference.address.authority, config.management.address.authority) == ("localhost:17070", "[::1]:0")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("grpc_inference_port=many", "is not a whole number of 0 or more, using 7070"),
        ("grpc_management_port=-1", "is not a whole number of 0 or more, using 7071"),
        ("grpc_inference_max_connection_age_ms=0", "is not a whole number of 1 or more, using none"),
    ],
)
def test_a_number_that_is_none_is_a_mistake(tmp_path: Path, line: str, text: str) -> None:
    config, mistakes = load(tmp_path, line)
    assert config == GrpcConfig()
    assert mistakes == [f"{tmp_path / 'my.properties'}:1: {line} {text}"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("grpc_inference_address=http://127.0.0.1", "Invalid binding address"),
        ("grpc_management_port=65535", "Invalid port number"),
    ],
)
def test_an_address_that_cannot_be(tmp_path: Path, line: str, text: str) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        load(tmp_path, line)


@pytest.mark.parametrize(
    ("line", "environ", "is_served"),
    [
        ("ts_open_inference_protocol=true", {}, True),
        ("ts_open_inference_protocol=true", {"TS_OPEN_INFERENCE_PROTOCOL": ""}, True),
        ("ts_open_inference_protocol=true", {"TS_OPEN_INFERENCE_PROTOCOL": "no"}, False),
        ("", {"TS_OPEN_INFERENCE_PROTOCOL": "oip"}, True),
        ("", {"TS_OPEN_INFERENCE_PROTOCOL": "true"}, False),
    ],
)
def test_the_variable_of_open_inference_wins(
    tmp_path: Path, line: str, environ: dict[str, str], is_served: bool
) -> None:
    config, mistakes = load(tmp_path, line, environ)
    assert (config.open_inference, mistakes) == (is_served, [])
