"""Listener addresses: `http://host[:port]`, `https://host[:port]` and `unix:/path`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from model_server.config.errors import InvalidConfiguration

# TorchServe refuses 65535 as well.
PORT_LIMIT = 65535

_URL = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[^\s/:\[\]@?#]+)(:(?P<port>\d+))?", re.IGNORECASE)
_UNIX = re.compile(r"unix:(?P<path>/.+)", re.IGNORECASE)


class DefaultPorts(NamedTuple):
    """Where a listener binds that names no port."""

    http: int
    https: int


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds: TCP `host` and `port` (0: any free port), or `path` of a unix socket."""

    scheme: str
    host: str = ""
    port: int = 0
    path: Path | None = None

    @property
    def is_unix(self) -> bool:
        return self.path is not None

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("https", "grpcs")

    @property
    def is_local(self) -> bool:
        """True when nothing outside this machine can connect."""
        if self.is_unix or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def authority(self) -> str:
        """`host:port`, what gRPC calls a target."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.is_unix else f"{self.scheme}://{self.authority}"


def parse_address(binding: str, default_ports: DefaultPorts) -> Address:
    """Read an address as config.properties has it.

    Raises:
        InvalidConfiguration: with TorchServe's text for a bad form or port.
    """
    return _parse_unix(binding) or _parse_url(binding, default_ports)


def _parse_unix(binding: str) -> Address | None:
    match = _UNIX.fullmatch(binding)
    return Address("unix", path=Path(match["path"])) if match else None


def _parse_url(binding: str, default_ports: DefaultPorts) -> Address:
    match = _URL.fullmatch(binding)
    if match is None:
        raise InvalidConfiguration(f"Invalid binding address: {binding}")
    scheme = match["scheme"].lower()
    port = getattr(default_ports, scheme) if match["port"] is None else int(match["port"][:6])
    if port >= PORT_LIMIT:
        raise InvalidConfiguration(f"Invalid port number: {binding}")
    return Address(scheme, match["host"].strip("[]"), port)
