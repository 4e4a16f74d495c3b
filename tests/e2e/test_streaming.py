"""Answers in parts: what clients see, and what becomes of them when something ends early."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers import Server, Servers, eventually, together

# What a request says: how many parts, how large, and what happens then.
STREAMER = """
import json, os, pathlib, time
from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    orders = [json.loads(bytes(row["body"])) for row in data]
    order = orders[0]
    if "status" in order:
        context.set_all_response_status(order["status"], "As Ordered")
    context.set_response_header(0, "x-first", "yes")
    for number in range(order["parts"]):
        parts = [f"{order.get('name', 'part')} {number} " + "x" * order.get("size", 0) for order in orders]
        send_intermediate_predict_response(parts, context.request_ids, "Intermediate", 200, context)
        context.set_response_header(0, "x-late", "yes")
        if "log" in order:
            pathlib.Path(order["log"]).write_text(str(number))
    while pathlib.Path(order.get("until_gone", "")).is_file():
        time.sleep(0.01)
    if order.get("then") == "raise":
        raise ValueError("no more")
    if order.get("then") == "die":
        os._exit(1)
    if order.get("then") == "hang":
        time.sleep(600)
    return [order.get("last", "end") for order in orders]
"""


@pytest.fixture(scope="module")
def streaming(module_servers: Servers) -> Server:
    module_servers.archives.pack("m", STREAMER, config={"minWorkers": 1, "maxWorkers": 1, "responseTimeout": 2})
    module_servers.archives.pack("b", STREAMER, config={"minWorkers": 1, "batchSize": 2, "maxBatchDelay": 500})
    return module_servers.start(models=["m.mar", "b.mar"])


def order(**values: Any) -> bytes:
    return json.dumps(values).encode()


def chunks_on_the_wire(url: str, body: bytes, version: str = "1.1") -> tuple[str, dict[str, str], list[bytes], bool]:
    """Status line, headers, chunks, and whether the last chunk came before the connection closed."""
    address = urlsplit(url)
    assert address.hostname and address.port
    head = f"POST {address.path} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        with connection.makefile("rb") as answer:
            status_line = answer.readline().decode().strip()
            lines = iter(lambda: answer.readline().decode().strip(), "")
            headers = dict(line.split(": ", 1) for line in lines)
            if "transfer-encoding" not in {name.lower() for name in headers}:
                return status_line, headers, [answer.read()], True
            chunks: list[bytes] = []
            while size := answer.readline().strip():
                length = int(size, 16)
                if length == 0:
                    return status_line, headers, chunks, True
                chunks.append(answer.read(length))
                answer.readline()
            return status_line, headers, chunks, False


def test_each_part_is_one_chunk_and_the_result_the_last(streaming: Server) -> None:
    status_line, headers, chunks, is_whole = chunks_on_the_wire(f"{streaming.inference}/predictions/m", order(parts=3))
    assert chunks == [b"part 0 ", b"part 1 ", b"part 2 ", b"end"]
    assert is_whole
    assert status_line == "HTTP/1.1 200"
    assert headers["ts_stream_next"] == "true"
    assert headers["x-first"] == "yes" and "x-late" not in headers
    assert "content-length" not in {name.lower() for name in headers}
    assert "content-type" not in {name.lower() for name in headers}
    assert headers["connection"] == "keep-alive" and headers["x-request-id"]


def test_an_empty_result_ends_the_stream_without_a_chunk_of_its_own(streaming: Server) -> None:
    *_, chunks, is_whole = chunks_on_the_wire(f"{streaming.inference}/predictions/m", order(parts=1, last=""))
    assert (chunks, is_whole) == ([b"part 0 "], True)


def test_the_connection_is_kept_for_the_next_request(streaming: Server) -> None:
    address = urlsplit(streaming.inference)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    for parts in (2, 0, 1):
        connection.request("POST", "/predictions/m", order(parts=parts))
        socket_before = connection.sock
        text = connection.getresponse().read().decode()
        assert text == "".join(f"part {number} " for number in range(parts)) + "end"
        assert connection.sock is socket_before
    connection.close()


def test_a_status_of_the_handlers_choice_goes_out_with_the_first_part(streaming: Server) -> None:
    status_line, headers, chunks, _ = chunks_on_the_wire(
        f"{streaming.inference}/predictions/m", order(parts=1, status=207)
    )
    assert status_line == "HTTP/1.1 207 As Ordered"
    assert chunks == [b"part 0 ", b"end"]
    assert headers["connection"] == "keep-alive"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204)])
def test_an_answer_without_body_has_none_when_it_streams(method: str, status: int, streaming: Server) -> None:
    """A body where there must be none would be read as the beginning of the next answer."""
    address = urlsplit(streaming.inference)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.request(method, "/predictions/m", order(parts=2, status=status))
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (status, b"")
    connection.request("POST", "/predictions/m", order(parts=1))
    assert connection.getresponse().read() == b"part 0 end"
    connection.close()


def test_http_1_0_gets_the_parts_without_chunks(streaming: Server) -> None:
    _, headers, body, _ = chunks_on_the_wire(f"{streaming.inference}/predictions/m", order(parts=2), "1.0")
    assert body == [b"part 0 part 1 end"]
    assert headers["connection"] == "close"


def test_every_member_of_a_batch_gets_its_own_parts(streaming: Server) -> None:
    one, two = together(
        *(lambda name=name: streaming.predict("b", order(parts=3, name=name), stream=True) for name in ("one", "two"))
    )
    assert one.text == "one 0 one 1 one 2 end"
    assert two.text == "two 0 two 1 two 2 end"


@pytest.mark.parametrize("then", ["raise", "die", "hang"])
def test_what_ends_badly_is_cut_off_without_the_last_chunk(then: str, streaming: Server) -> None:
    url = f"{streaming.inference}/predictions/m"
    status_line, _, chunks, is_whole = chunks_on_the_wire(url, order(parts=2, then=then))
    assert status_line == "HTTP/1.1 200"
    assert (chunks, is_whole) == ([b"part 0 ", b"part 1 "], False)
    assert streaming.predict("m", order(parts=0)).text == "end"


@pytest.mark.parametrize(("then", "status"), [("raise", 503), ("hang", 500)])
def test_what_ends_badly_before_its_first_part_is_a_plain_error(then: str, status: int, streaming: Server) -> None:
    answer = streaming.predict("m", order(parts=0, then=then))
    assert answer.status_code == status
    assert answer.json()["type"] == "InternalServerException"


def test_a_client_that_goes_away_stops_the_handler(streaming: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with streaming.predict("m", order(parts=10**9, log=str(log), size=1000), stream=True) as answer:
        parts = answer.iter_content(100)  # kept: the connection ends with it
        next(parts)
        eventually(lambda: log.exists() and log.read_text(), "first part written")
    assert streaming.predict("m", order(parts=1)).text == "part 0 end"  # the only worker is free again
    assert int(log.read_text()) < 10**6


def test_a_slow_client_holds_the_handler_back_and_loses_nothing(streaming: Server, tmp_path: Path) -> None:
    """64 MB for a client that reads nothing for longer than responseTimeout: the server keeps a window of them."""
    log = tmp_path / "log"
    with streaming.predict("m", order(parts=1000, size=64_000, log=str(log)), stream=True) as answer:
        resting_s = time.monotonic() + 3

        def is_held_back() -> bool:
            return time.monotonic() > resting_s and 0 < int(log.read_text() or 0) < 900

        eventually(is_held_back, "the handler waits for its client")
        assert len(answer.content) == sum(len(f"part {number} ") + 64_000 for number in range(1000)) + len("end")


@pytest.mark.parametrize("end", ["unregister", "SIGTERM"])
def test_a_stream_is_finished_before_its_worker_ends(
    end: str, server: Callable[..., Server], make_archive: Callable[..., Path], tmp_path: Path
) -> None:
    make_archive("m", STREAMER, config={"minWorkers": 1})
    running = server(models=["m.mar"])
    gate = tmp_path / "gate"
    gate.touch()
    with (
        running.predict("m", order(parts=1, until_gone=str(gate)), stream=True) as answer,
        ThreadPoolExecutor(1) as pool,
    ):
        parts = answer.iter_content(None)
        assert next(parts) == b"part 0 "
        if end == "SIGTERM":
            running.process.terminate()
            eventually(lambda: "Stopping" in running.log_text(), "the server is stopping")
        else:
            unregistered = pool.submit(running.manage, "DELETE", "models/m")
            eventually(lambda: not running.describe("m")[0]["workers"], "the model is on its way out")
            assert running.predict("m", order(parts=0)).status_code == 503
        gate.unlink()
        assert b"".join(parts) == b"end"
        if end == "SIGTERM":
            assert running.process.wait(30) == 0
        else:
            assert unregistered.result(30).status_code == 200


def test_management_describes_while_a_stream_runs(streaming: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with streaming.predict("m", order(parts=10**9, size=1000, log=str(log)), stream=True):
        eventually(lambda: log.exists() and log.read_text(), "first part written")
        assert streaming.describe("m")[0]["workers"][0]["status"] == "READY"
