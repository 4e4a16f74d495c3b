"""Access lines, of requests as aiohttp has them and of gRPC calls."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector, web

from model_server.api.access_log import AccessLog
from model_server.api.sites import Site
from model_server.config.addresses import Address
from model_server.config.server import ServerConfig

Written = list[tuple[str, str, str | None]]


@pytest.fixture
def written() -> Written:
    return []


@pytest.fixture
def access_log(written: Written) -> AccessLog:
    return AccessLog(lambda logger, make, args, id, size: written.append((logger, make(1.0, *args), id)))


async def answer(request: web.Request, segments: list[str]) -> web.StreamResponse | None:
    return web.Response(text="ok") if segments[:1] == ["ping"] else None


def ask(access_log: AccessLog, address: Address) -> str:
    """One request to a site of its own; returns its request id."""

    async def main() -> str:
        site = Site([answer], ServerConfig(), None, [access_log])
        taken = await site.start(address)
        origin = "http://localhost" if taken.is_unix else str(taken)
        connector = UnixConnector(str(taken.path)) if taken.is_unix else None
        try:
            async with ClientSession(connector=connector) as client, client.get(f"{origin}/ping?a=b") as response:
                assert response.status == 200
                return response.headers["x-request-id"]
        finally:
            await site.stop()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "client"), [("127.0.0.1", r"/127\.0\.0\.1:\d+"), ("::1", r"/\[::1\]:\d+")], ids=["IPv4", "IPv6"]
)
def test_a_client_has_address_and_port(access_log: AccessLog, written: Written, host: str, client: str) -> None:
    try:
        request_id = ask(access_log, Address("http", host, 0))
    except OSError:
        pytest.skip(f"there is no {host} here")
    ((logger, message, told_id),) = written
    assert re.fullmatch(client + r' "GET /ping\?a=b HTTP/1\.1" 200 \d+', message)
    assert (logger, told_id) == ("ACCESS_LOG", request_id)


def test_a_client_on_a_unix_socket_has_none(access_log: AccessLog, written: Written, tmp_path: Path) -> None:
    ask(access_log, Address("unix", path=tmp_path / "s"))
    # As TorchServe writes it, without slash and port.
    assert re.fullmatch(r'127\.0\.0\.1 "GET /ping\?a=b HTTP/1\.1" 200 \d+', written[0][1])


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:127.0.0.1:5000", "/127.0.0.1:5000"),
        ("ipv6:%5B::1%5D:5000", "/[::1]:5000"),
        ("ipv6:[::1]:5000", "/[::1]:5000"),
        ("unix:", "127.0.0.1"),
        ("unix:/tmp/s", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_a_grpc_call(access_log: AccessLog, written: Written, peer: str, client: str) -> None:
    method = "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
    access_log.grpc_call(peer, f"/{method}", 13, 0.0299, "r")
    assert written == [("ACCESS_LOG", f'{client} "gRPC {method} HTTP/2.0" 13 29', "r")]
