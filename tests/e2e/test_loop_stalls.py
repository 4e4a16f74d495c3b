"""The frontend goes on answering while it does something large."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from servers import MIRROR, Server

Make = Callable[..., Path]
Start = Callable[..., Server]

# What is demanded of the server is 50 ms; a test machine that does other things at the same time adds to it.
DEMANDED_S, ALLOWED_S = 0.05, 0.25
PERIOD_S = 0.005
LARGE_BYTES = 300 * 2**20


@pytest.fixture
def large(make_archive: Make) -> None:
    """Weights that cannot be compressed, as those of a real model."""
    piece = os.urandom(2**20)
    weights = b"".join(piece[index % 997 :] + piece[: index % 997] for index in range(LARGE_BYTES // 2**20))
    make_archive("large", MIRROR, files={"weights.bin": weights})


@pytest.fixture
def scattered(make_archive: Make) -> None:
    """Very many small files, and a long configuration."""
    config = {"handler": {f"key {index}": list(range(10)) for index in range(2000)}}
    path = make_archive("scattered", MIRROR, config=config)
    with zipfile.ZipFile(path, "a") as archive:
        for index in range(10_000):
            archive.writestr(f"folder-{index % 100}/file-{index}", f"{index}")


def longest_pause_s(server: Server, work: Future[requests.Response]) -> tuple[float, int]:
    """Pings until the work is done; the longest wait for an answer, and how many answers there were."""
    longest_s, pings = 0.0, 0
    with requests.Session() as session:
        session.get(f"{server.inference}/ping", timeout=30)
        while not work.done():
            began_s = time.perf_counter()
            assert session.get(f"{server.inference}/ping", timeout=30).status_code == 200
            took_s = time.perf_counter() - began_s
            longest_s, pings = max(longest_s, took_s), pings + 1
            time.sleep(max(0.0, PERIOD_S - took_s))
    return longest_s, pings


@pytest.mark.parametrize("name", ["large", "scattered"])
def test_no_pause_while_an_archive_is_registered(
    server: Start, request: pytest.FixtureRequest, record_property: Callable[[str, object], None], name: str
) -> None:
    request.getfixturevalue(name)
    running = server()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(running.register, f"{name}.mar", initial_workers=1)
        pause_s, pings = longest_pause_s(running, work)
    assert work.result().status_code == 200, work.result().text
    record_property("longest_pause_ms", round(pause_s * 1000, 1))
    print(f"{name}: longest pause {pause_s * 1000:.1f} ms in {pings} pings (demanded: {DEMANDED_S * 1000:.0f} ms)")
    assert pings > 10
    assert pause_s < ALLOWED_S


def test_no_pause_while_an_archive_is_refused_and_removed(server: Start, large: None) -> None:
    running = server()
    assert running.register("large.mar").status_code == 200
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(running.manage, "DELETE", "models/large")
        removed_s, _ = longest_pause_s(running, work)
        work = pool.submit(running.register, "large.mar", handler="nowhere.py", initial_workers=1)
        refused_s, _ = longest_pause_s(running, work)
    assert work.result().status_code == 500
    assert running.unpacked() == []
    print(f"longest pause: {removed_s * 1000:.1f} ms removing, {refused_s * 1000:.1f} ms refusing")
    assert max(removed_s, refused_s) < ALLOWED_S


def test_no_pause_while_answers_are_large(server: Start, make_archive: Make) -> None:
    """50 MB in and out, with a small request every now and then."""
    make_archive("mirror", "def handle(data, context):\n    return data and [bytes(row['body']) for row in data]\n")
    running = server(["mirror.mar"], {"max_request_size": 10**8, "max_response_size": 10**8})
    body = os.urandom(50 * 2**20)
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(running.predict, "mirror", body)
        pause_s, _ = longest_pause_s(running, work)
    assert work.result().content == body
    print(f"longest pause {pause_s * 1000:.1f} ms")
    assert pause_s < ALLOWED_S
