"""Listener addresses, by the table of config.properties' network keys."""

from pathlib import Path

import pytest

from model_server.config.addresses import Address, DefaultPorts, parse_address
from model_server.config.errors import InvalidConfiguration

PORTS = DefaultPorts(http=80, https=443)


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("http://127.0.0.1:8080", Address("http", "127.0.0.1", 8080)),
        ("HTTP://localhost:9", Address("http", "localhost", 9)),
        ("http://127.0.0.1", Address("http", "127.0.0.1", 8081)),
        ("https://127.0.0.1", Address("https", "127.0.0.1", 8444)),
        ("HTTPS://127.0.0.1:9", Address("https", "127.0.0.1", 9)),
        ("http://127.8.9.1:0", Address("http", "127.8.9.1", 0)),
        ("http://[::1]:8080", Address("http", "::1", 8080)),
        ("http://localhost:65534", Address("http", "localhost", 65534)),
        ("unix:/tmp/management.sock", Address("unix", path=Path("/tmp/management.sock"))),
        ("UNIX:/a b", Address("unix", path=Path("/a b"))),
    ],
)
def test_accepted(binding: str, expected: Address) -> None:
    assert parse_address(binding, DefaultPorts(http=8081, https=8444)) == expected


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("127.0.0.1:8080", "Invalid binding address: 127.0.0.1:8080"),
        ("http://127.0.0.1:8080/", "Invalid binding address: http://127.0.0.1:8080/"),
        ("http://127.0.0.1:port", "Invalid binding address: http://127.0.0.1:port"),
        ("http://user@localhost:1", "Invalid binding address: http://user@localhost:1"),
        ("ftp://localhost:1", "Invalid binding address: ftp://localhost:1"),
        ("http://:8080", "Invalid binding address: http://:8080"),
        ("unix:relative", "Invalid binding address: unix:relative"),
        ("", "Invalid binding address: "),
        ("http://127.0.0.1:65535", "Invalid port number: http://127.0.0.1:65535"),
        ("http://127.0.0.1:99999999999999999999", "Invalid port number: http://127.0.0.1:99999999999999999999"),
    ],
)
def test_refused_with_torchserves_text(binding: str, message: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_address(binding, PORTS)
    assert str(caught.value) == f"Invalid configuration: {message}"


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "192.168.1.4", "example.com", "localhost.example.com", "128.0.0.1"]
)
def test_other_machines_may_connect(host: str) -> None:
    assert not parse_address(f"http://{host}:8080", PORTS).is_local


@pytest.mark.parametrize(
    "binding", ["http://127.0.0.1", "http://127.1.2.3", "http://[::1]", "http://LOCALHOST", "unix:/x"]
)
def test_only_this_machine_may_connect(binding: str) -> None:
    assert parse_address(binding, PORTS).is_local


@pytest.mark.parametrize("text", ["http://127.0.0.1:8080", "https://[::1]:1", "unix:/tmp/x.sock"])
def test_text_of_an_address_is_what_was_read(text: str) -> None:
    assert str(parse_address(text, PORTS)) == text
