"""Fetching archives from a web server that behaves, and from ones that do not."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from origins import Origin, content, endless, redirect, reset, status

from model_server.config.server import DownloadRules
from model_server.errors import DownloadFailed, ModelNotFound, ServerError
from model_server.serving import download
from model_server.serving.download import Downloads

ANYTHING = r"https?://.*,file://.*"
ARCHIVE = bytes(range(256)) * 1000


class Store:
    """An empty model store, and what is fetched into it."""

    def __init__(self, folder: Path, allowed_urls: str, **rules: Any) -> None:
        patterns = tuple(re.compile(pattern, re.IGNORECASE) for pattern in allowed_urls.split(","))
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.downloads = Downloads(folder, DownloadRules(allowed_urls=patterns, **rules))

    def fetch(self, url: str) -> Path:
        return asyncio.run(self.downloads.fetch(url))

    def refused(self, url: str, error: type[ServerError], files: tuple[str, ...] = ()) -> str:
        """The message; nothing of the file stays."""
        with pytest.raises(error) as caught:
            self.fetch(url)
        assert type(caught.value) is error
        assert sorted(os.listdir(self.folder)) == sorted(files)
        return caught.value.message


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        running.answers["/models/m.mar"] = content(ARCHIVE)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", ANYTHING)


# --- what arrives ---


@pytest.mark.parametrize("suffix", ["", "?token=1&x=/y.mar", "#part"])
def test_a_file_arrives_whole_under_the_last_component_of_the_path(store: Store, origin: Origin, suffix: str) -> None:
    assert store.fetch(f"{origin.url}/models/m.mar{suffix}") == store.folder / "m.mar"
    assert (store.folder / "m.mar").read_bytes() == ARCHIVE
    assert os.listdir(store.folder) == ["m.mar"]


def test_nobody_sees_half_a_file(store: Store, origin: Origin) -> None:
    async def main() -> None:
        origin.answers["/m.mar"] = origin.held(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n", b"half")
        fetching = asyncio.create_task(store.downloads.fetch(f"{origin.url}/m.mar"))
        while not os.listdir(store.folder):
            await asyncio.sleep(0.005)
        assert all(name.startswith(".") for name in os.listdir(store.folder))
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert os.listdir(store.folder) == []

    asyncio.run(main())


def test_a_body_is_kept_as_it_was_sent(store: Store, origin: Origin) -> None:
    """An archive that a server calls compressed is one."""
    origin.answers["/m.tar.gz"] = origin.held(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n", b"abc"
    )
    assert store.fetch(f"{origin.url}/m.tar.gz").read_bytes() == b"abc"
    assert dict(origin.requests[0][1])["Accept-Encoding"] == "identity"


def test_redirects_are_followed_where_they_are_allowed(store: Store, origin: Origin) -> None:
    origin.answers["/a.mar"] = redirect("/b")
    origin.answers["/b"] = redirect(f"http://localhost:{origin.port}/models/m.mar", 307)
    assert store.fetch(f"{origin.url}/a.mar").name == "a.mar"
    assert (store.folder / "a.mar").read_bytes() == ARCHIVE


def test_only_the_first_host_is_shown_the_headers(store: Store, origin: Origin) -> None:
    origin.answers["/a.mar"] = redirect("/models/m.mar")
    asyncio.run(store.downloads.fetch(f"{origin.url}/a.mar", {"Authorization": "secret"}))
    assert [headers.get("Authorization") for _, headers in origin.requests] == ["secret", None]


# --- what is not contacted ---


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/models/m.mar",
        "http://127.0.0.1:{port}/other/allowed/m.mar",
        "http://127.0.0.1:{port}/allowed/%2e%2e/models/m.mar",
        "http://127.0.0.1:{port}/allowed/" + "x" * 9000 + "/m.mar",
        "http://allowed@127.0.0.1:{port}/models/m.mar",
        "http://localhost:{port}/allowed/m.mar",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
    ],
)
def test_a_url_that_no_pattern_matches_from_end_to_end_is_a_404(tmp_path: Path, origin: Origin, url: str) -> None:
    store = Store(tmp_path / "store", rf"http://127\.0\.0\.1:{origin.port}/allowed/.*,https://else/.*")
    url = url.format(port=origin.port)
    assert store.refused(url, ModelNotFound) == f"Given URL {url} does not match any allowed URL(s)"
    assert origin.requests == []


def test_patterns_do_not_mind_case(tmp_path: Path, origin: Origin) -> None:
    store = Store(tmp_path / "store", rf"HTTP://127\.0\.0\.1:{origin.port}/MODELS/.*")
    assert store.fetch(f"Http://127.0.0.1:{origin.port}/models/m.mar").exists()


@pytest.mark.parametrize(
    "url",
    [
        "http://good.example@127.0.0.1:{port}/models/m.mar",
        "http://good.example:80@127.0.0.1:{port}/models/m.mar",
        "http://good.example\\@127.0.0.1:{port}/models/m.mar",
        "http://127.0.0.1:{port}\\models/m.mar",
        "http://127.0.0.1:{port}/models/m.mar\t",
        "http://127.0.0.1\n:{port}/models/m.mar",
        "http://127.0.0.1:{port}/a b/m.mar",
        "http://127.0.0.1:{port}/x/../models/m.mar",
        "http://127.0.0.1:{port}/x/%2E./models/m.mar",
    ],
)
def test_urls_that_can_be_read_in_two_ways_are_not_allowed_by_any_pattern(
    store: Store, origin: Origin, url: str
) -> None:
    assert "does not match any allowed URL(s)" in store.refused(url.format(port=origin.port), ModelNotFound)
    assert origin.requests == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "localhost.", "0177.0.0.1"])
def test_other_names_of_this_machine_lead_nowhere(store: Store, origin: Origin, host: str) -> None:
    message = store.refused(f"http://{host}:{origin.port}/models/m.mar", DownloadFailed)
    assert message.startswith(f"Failed to download archive from: http://{host}:{origin.port}/models/m.mar. ")
    assert origin.requests == []


def test_a_name_somebody_else_controls_never_leads_here(
    store: Store, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was looked at is the one that is connected to: no second look-up can be answered otherwise."""
    asked = []

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "169.254.169.254", "0.0.0.0")]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    message = store.refused(f"http://models.example:{origin.port}/models/m.mar", DownloadFailed)
    assert "models.example is a name of this machine" in message
    assert asked == ["models.example"]
    assert origin.requests == []


@pytest.mark.parametrize(
    "target", ["/secret", "http://localhost:{port}/models/m.mar", "file:///etc/passwd", "ftp://x/y"]
)
def test_a_redirect_out_of_what_is_allowed_is_not_followed(tmp_path: Path, origin: Origin, target: str) -> None:
    origin.answers["/models/moved.mar"] = redirect(target.format(port=origin.port))
    origin.answers["/secret"] = content(b"secret")
    store = Store(tmp_path / "store", rf"http://127\.0\.0\.1:{origin.port}/models/.*,file://.*")
    message = store.refused(f"{origin.url}/models/moved.mar", DownloadFailed)
    assert "It redirects to" in message and "does not match any allowed URL(s)" in message
    assert origin.paths == ["/models/moved.mar"]


def test_a_redirect_to_somebody_elses_machine_by_its_user_name(store: Store, origin: Origin) -> None:
    origin.answers["/m.mar"] = redirect(f"http://good.example@127.0.0.1:{origin.port}/models/m.mar")
    assert "does not match any allowed URL(s)" in store.refused(f"{origin.url}/m.mar", DownloadFailed)
    assert origin.paths == ["/m.mar"]


def test_redirects_in_a_circle_end(store: Store, origin: Origin) -> None:
    origin.answers["/a.mar"] = redirect("/a.mar")
    assert "It redirects more than 3 times." in store.refused(f"{origin.url}/a.mar", DownloadFailed)
    assert len(origin.requests) == 4


def test_proxies_of_the_environment_count_only_where_asked_for(
    store: Store, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, origin.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert store.refused("http://192.0.2.1.invalid/m.mar", DownloadFailed)
    assert origin.requests == []
    origin.answers["http://models.invalid/m.mar"] = content(ARCHIVE)
    asked_for = Store(tmp_path / "other", ANYTHING, use_env_proxy=True)
    assert asked_for.fetch("http://models.invalid/m.mar").read_bytes() == ARCHIVE


# --- what fails ---


@pytest.mark.parametrize("code", [204, 206, 304, 401, 403, 404, 500, 503])
def test_every_answer_but_200_is_a_400_that_names_it(store: Store, origin: Origin, code: int) -> None:
    origin.answers["/m.mar"] = status(code)
    url = f"{origin.url}/m.mar"
    message = store.refused(url, DownloadFailed)
    assert message.startswith(f"Failed to download archive from: {url}. The answer was {code} ")


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (content(b"half", length=8), "ClientPayloadError"),
        (reset, "Client"),
        (redirect(""), "redirects more than 3 times"),
    ],
)
def test_an_origin_that_breaks_off(store: Store, origin: Origin, behaviour: Any, cause: str) -> None:
    origin.answers["/m.mar"] = behaviour
    assert cause in store.refused(f"{origin.url}/m.mar", DownloadFailed)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_an_origin_that_falls_silent(
    store: Store, origin: Origin, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(download, "SILENCE_TIMEOUT_S", 0.1)
    origin.answers["/m.mar"] = origin.held(sent)
    assert "nothing came for 0.1 s" in store.refused(f"{origin.url}/m.mar", DownloadFailed)


def test_an_origin_that_takes_for_ever(tmp_path: Path, origin: Origin) -> None:
    store = Store(tmp_path / "store", ANYTHING, timeout_s=1)
    origin.answers["/m.mar"] = endless
    assert "more than 1 s (download_timeout)" in store.refused(f"{origin.url}/m.mar", DownloadFailed)


@pytest.mark.parametrize("behaviour", [content(bytes(2 << 20)), content(b"", length=2 << 20), endless])
def test_a_file_that_is_too_large(tmp_path: Path, origin: Origin, behaviour: Any) -> None:
    store = Store(tmp_path / "store", ANYTHING, limit_bytes=1 << 20)
    origin.answers["/m.mar"] = behaviour
    assert "larger than 1 MiB (download_limit_mib)" in store.refused(f"{origin.url}/m.mar", DownloadFailed)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:aaaa",
        "http://localhost:aaaa/m.mar",
        "http://[::1/m.mar",
        "http:///m.mar",
        "http://127.0.0.1:1/m.mar",
        "https://127.0.0.1:{port}/m.mar",
        "http://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/",
        "http://127.0.0.1:{port}/.hidden.mar",
        "http://127.0.0.1:{port}/" + "x" * 300,
    ],
)
def test_a_url_that_leads_nowhere_is_a_400(store: Store, origin: Origin, url: str) -> None:
    url = url.format(port=origin.port)
    assert store.refused(url, DownloadFailed).startswith(f"Failed to download archive from: {url}. ")


def test_a_full_disk_is_our_error(store: Store, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(partial: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_create", full)
    url = f"{origin.url}/models/m.mar"
    assert store.refused(url, ServerError) == f"Failed to save model: {url}. No space left on device."


# --- files that are there ---


@pytest.mark.parametrize("form", ["file", "folder", "dangling link"])
def test_what_lies_in_the_store_is_never_overwritten(store: Store, origin: Origin, form: str) -> None:
    there = store.folder / "m.mar"
    if form == "file":
        there.write_bytes(b"old")
    elif form == "folder":
        there.mkdir()
    else:
        there.symlink_to("nowhere")
    message = store.refused(f"{origin.url}/models/m.mar", ServerError, files=("m.mar",))
    assert message == "Model file already exists m.mar"
    assert origin.requests == []
    assert form != "file" or there.read_bytes() == b"old"


def test_of_two_at_once_one_wins(store: Store, origin: Origin) -> None:
    async def main() -> list[Path | BaseException]:
        url = f"{origin.url}/models/m.mar"
        return await asyncio.gather(*(store.downloads.fetch(url) for _ in range(4)), return_exceptions=True)

    results = asyncio.run(main())
    messages = [str(result) for result in results if isinstance(result, ServerError)]
    assert messages == ["Model file already exists m.mar"] * 3
    assert os.listdir(store.folder) == ["m.mar"]
    assert (store.folder / "m.mar").read_bytes() == ARCHIVE


# --- file:// ---


@pytest.mark.parametrize("form", ["file://{}", "FILE://{}", "file://localhost{}"])
def test_a_file_of_this_machine_is_copied(store: Store, tmp_path: Path, form: str) -> None:
    source = tmp_path / "a folder" / "m.mar"
    source.parent.mkdir()
    source.write_bytes(ARCHIVE)
    target = store.fetch(form.format(str(source).replace(" ", "%20")))
    assert (target, target.read_bytes()) == (store.folder / "m.mar", ARCHIVE)
    assert source.exists()


def test_files_that_cannot_be_copied(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mar")
    (tmp_path / "folder.mar").mkdir()
    causes = {
        f"file://{tmp_path}/gone.mar": "There is no such file.",
        f"file://{tmp_path}/pipe.mar": "There is no such file.",
        f"file://{tmp_path}/folder.mar": "There is no such file.",
        f"file://elsewhere{tmp_path}/m.mar": "Files of other machines cannot be had by file://.",
    }
    for url, cause in causes.items():
        assert store.refused(url, DownloadFailed) == f"Failed to download archive from: {url}. {cause}"


def test_a_pattern_for_a_folder_does_not_let_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "secret.mar").write_bytes(b"secret")
    store = Store(tmp_path / "store", f"file://{tmp_path}/models/.*")
    for step in ("..", "%2e%2e", "%2E."):
        store.refused(f"file://{tmp_path}/models/{step}/secret.mar", ModelNotFound)


def test_a_file_larger_than_allowed_is_not_copied(tmp_path: Path) -> None:
    with (tmp_path / "large.mar").open("wb") as file:
        file.truncate((1 << 20) + 1)
    store = Store(tmp_path / "store", ANYTHING, limit_bytes=1 << 20)
    assert "larger than 1 MiB" in store.refused(f"file://{tmp_path}/large.mar", DownloadFailed)


# --- after a crash ---


def test_what_a_killed_server_left_is_swept_and_what_another_still_writes_stays(store: Store) -> None:
    left, running, archive = (store.folder / name for name in (".download-1", ".download-2", "m.mar"))
    for path in (left, running, archive):
        path.touch()
    an_hour_ago_s = time.time() - 3601
    for path in (left, archive):
        os.utime(path, (an_hour_ago_s, an_hour_ago_s))
    store.downloads.sweep()
    assert sorted(os.listdir(store.folder)) == [".download-2", "m.mar"]
