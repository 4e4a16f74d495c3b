"""Registering by URL on the real server: what is fetched, what is refused, what stays."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from origins import Origin, content, redirect
from servers import MIRROR, Server, Servers, error_of, eventually, together


class Site:
    """A server that may fetch from one web server and one folder. Its model store holds `local.mar`."""

    def __init__(self, servers: Servers, folder: Path, origin: Origin) -> None:
        self.origin = origin
        self.offered = folder / "offered"
        self.offered.mkdir()
        self.archive = servers.archives.pack("far", MIRROR).rename(self.offered / "far.mar").read_bytes()
        servers.archives.pack("local", MIRROR)
        self.store = servers.archives.folder
        allowed = f"http://127\\\\.0\\\\.0\\\\.1:{origin.port}/.*,http://localhost:a.*,file://{self.offered}/.*"
        self.server = servers.start(config={"allowed_urls": allowed, "download_limit_mib": 1})

    def files(self) -> list[str]:
        return sorted(os.listdir(self.store))


@pytest.fixture(scope="module")
def site(module_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Origin() as origin:
        yield Site(module_servers, tmp_path_factory.mktemp("site"), origin)


@pytest.fixture(autouse=True)
def unchanged(site: Site) -> Iterator[None]:
    """After every test the store, the models and the unpacked archives are what they were before."""
    site.origin.requests.clear()
    site.origin.answers["/far.mar"] = content(site.archive)
    yield
    assert (site.files(), site.server.model_names(), site.server.unpacked()) == (["local.mar"], [], [])


def unregister(server: Server, name: str) -> None:
    assert server.manage("DELETE", f"models/{name}").status_code == 200


def test_the_life_of_a_model_from_the_web(site: Site) -> None:
    server, url = site.server, f"{site.origin.url}/far.mar"
    answer = server.register(url, initial_workers=1)
    assert answer.json() == {"status": 'Model "far" Version: 1.0 registered with 1 initial workers'}
    assert site.files() == ["far.mar", "local.mar"]
    assert (site.store / "far.mar").read_bytes() == site.archive
    assert server.predict("far", b"x").status_code == 200
    assert server.describe("far")[0]["modelUrl"] == url
    assert error_of(server.register(url)) == (500, "InternalServerException", "Model file already exists far.mar")
    assert site.origin.paths == ["/far.mar"]
    unregister(server, "far")
    assert site.files() == ["local.mar"]


def test_the_life_of_a_model_from_a_file(site: Site) -> None:
    url = f"file://{site.offered}/far.mar"
    assert site.server.register(url, model_name="copied").status_code == 200
    assert site.files() == ["far.mar", "local.mar"]
    unregister(site.server, "copied")
    assert (site.offered / "far.mar").exists()


def test_the_same_local_archive_twice_is_a_conflict_and_stays(site: Site) -> None:
    assert site.server.register("local.mar").status_code == 200
    status, type_, message = error_of(site.server.register("local.mar"))
    assert (status, type_) == (409, "ConflictStatusException")
    assert message == "Model version 1.0 is already registered for model local"
    unregister(site.server, "local")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2:{port}/far.mar",
        "http://localhost:{port}/far.mar",
        "http://127.0.0.1:{port}@127.0.0.2:{port}/far.mar",
        "https://example.com/far.mar",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "file://{offered}/%2e%2e/far.mar",
    ],
)
def test_what_is_not_allowed_is_not_contacted(site: Site, url: str) -> None:
    url = url.format(port=site.origin.port, offered=site.offered)
    expected = (404, "ModelNotFoundException", f"Given URL {url} does not match any allowed URL(s)")
    assert error_of(site.server.register(url)) == expected
    assert site.origin.requests == []


def test_the_steps_of_the_check_are_torchserves(site: Site) -> None:
    for url, expected in {
        f"{site.origin.url}/../far.mar": (404, "ModelNotFoundException", "Relative path is not allowed in url: "),
        "ftp://127.0.0.1/far.mar": (404, "ModelNotFoundException", "Model not found at: ftp://127.0.0.1/far.mar"),
        "http://localhost:aaaa": (
            400,
            "DownloadArchiveException",
            "Failed to download archive from: http://localhost:aaaa",
        ),
        f"{site.origin.url}/none.mar": (400, "DownloadArchiveException", "Failed to download archive from: http://"),
        f"file://{site.offered}/none.mar": (
            400,
            "DownloadArchiveException",
            "Failed to download archive from: file://",
        ),
    }.items():
        status, type_, message = error_of(site.server.register(url))
        assert (status, type_, message[: len(expected[2])]) == expected
    answer = site.server.register("http://localhost:aaaa", runtime="python4")
    assert error_of(answer) == (400, "BadRequestException", "Invalid RuntimeType value: python4")


def test_a_redirect_to_somewhere_else(site: Site) -> None:
    site.origin.answers["/moved.mar"] = redirect(f"http://localhost:{site.origin.port}/far.mar")
    status, type_, message = error_of(site.server.register(f"{site.origin.url}/moved.mar"))
    assert (status, type_) == (400, "DownloadArchiveException")
    assert "It redirects to http://localhost" in message
    assert site.origin.paths == ["/moved.mar"]


def slipping() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../escaped.py", "")
    return buffer.getvalue()


@pytest.mark.parametrize("body", [b"<html>no archive</html>", b"", slipping(), bytes((1 << 20) + 1)])
def test_what_is_fetched_and_cannot_be_served_is_not_kept(site: Site, body: bytes) -> None:
    site.origin.answers["/bad.mar"] = content(body)
    assert error_of(site.server.register(f"{site.origin.url}/bad.mar", model_name="bad"))[0] == 400
    assert error_of(site.server.register("bad.mar"))[0] == 404


def test_other_requests_go_on_while_something_is_fetched(site: Site) -> None:
    server, held = site.server, site.origin.held(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"half")
    site.origin.answers["/slow.mar"] = held

    def meanwhile() -> None:
        eventually(lambda: site.origin.paths == ["/slow.mar"], "the download has begun")
        for _ in range(20):
            assert server.infer("GET", "ping").elapsed.total_seconds() < 1
        assert "slow.mar" not in site.files()
        site.origin.released.set()

    answer, _ = together(lambda: server.register(f"{site.origin.url}/slow.mar"), meanwhile)
    site.origin.released.clear()
    assert error_of(answer)[:2] == (400, "DownloadArchiveException")  # the origin has broken off


def test_by_default_nothing_is_fetched(site: Site, servers: Servers) -> None:
    (servers.archives.folder).mkdir()
    server = servers.start(
        config={"enable_envvars_config": "true"}, environment={"TS_ALLOWED_URLS": "http(s)?://.*|file://.*"}
    )
    for url in (f"{site.origin.url}/far.mar", f"file://{site.offered}/far.mar"):
        assert error_of(server.register(url))[0] == 404
    assert (site.origin.requests, os.listdir(server.model_store)) == ([], [])


def test_at_start_models_come_from_urls_too_and_once_only(site: Site, servers: Servers) -> None:
    url = f"{site.origin.url}/far.mar"
    config = {"enable_envvars_config": "true", "use_env_allowed_urls": "true", "load_models": f"mine={url}"}
    environment = {"TS_ALLOWED_URLS": f"{site.origin.url}/.*"}
    for _ in range(2):
        server = servers.start(config=config, environment=environment)
        assert server.describe("mine")[0]["modelUrl"] == url
        server.wait_model_ready("mine")
    assert site.origin.paths == ["/far.mar"]
