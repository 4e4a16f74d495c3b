"""What becomes of a handler's result on the wire: body, status line, headers, connection."""

from __future__ import annotations

import io
import socket
import uuid
from urllib.parse import urlsplit

import pytest
import requests
import torch
from servers import RawAnswer, Server, Servers, exchange

# Each name asks for one kind of answer, in the body of the request.
ANSWERS = """
import torch

VALUES = {
    "bytes": bytes(range(256)),
    "bytearray": bytearray(b"raw"),
    "str": "grüße",
    "empty": "",
    "dict": {"b": 1, "a": ["ü", None, True]},
    "list": [],
    "int": 0,
    "float": 1.5,
    "nan": float("nan"),
    "bool": True,
    "none": None,
    "tuple": (1, 2),
    "tensor": torch.arange(6).reshape(2, 3),
}


def handle(data, context):
    return data and [answer(bytes(row["body"]).decode(), index, context) for index, row in enumerate(data)]


def answer(what, index, context):
    if what == "headers":
        context.set_response_header(index, "X-Dummy", "1")
        context.set_response_content_type(index, "text/plain")
    elif what == "other case":
        context.set_response_header(index, "Content-Type", "image/png")
    elif what == "our headers":
        context.set_response_header(index, "x-request-id", "mine")
        context.set_response_header(index, "Cache-Control", "max-age=60")
        context.set_response_header(index, "Pragma", "cache")
    elif what == "bad headers":
        for name, value in {
            "x-split": "a\\r\\nx-evil: 1",
            "x-nul": "a\\0b",
            "bad name": "1",
            "bad\\nname": "1",
            "Content-Length": "1",
            "Transfer-Encoding": "chunked",
            "Connection": "upgrade",
            "": "1",
            "x-good": "1",
        }.items():
            context.set_response_header(index, name, value)
    elif what.startswith("status"):
        _, status, phrase = what.split(" ", 2)
        context.set_response_status(code=int(status), phrase=phrase, idx=index)
    return VALUES.get(what, "Invalid response")
"""


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    module_servers.archives.pack("answers", ANSWERS)
    return module_servers.start(["answers.mar"])


def ask(server: Server, what: str) -> RawAnswer:
    body = what.encode()
    head = f"POST /predictions/answers HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    return exchange(server.inference, head.encode() + body)


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("bytes", bytes(range(256))),
        ("bytearray", b"raw"),
        ("str", "grüße".encode()),
        ("empty", b""),
        ("dict", b'{\n  "b": 1,\n  "a": [\n    "\\u00fc",\n    null,\n    true\n  ]\n}'),
        ("list", b"[]"),
        ("int", b"0"),
        ("float", b"1.5"),
        ("nan", b"NaN"),
        ("bool", b"true"),
        ("none", b"null"),
        ("tuple", b"[\n  1,\n  2\n]"),
    ],
)
def test_bodies(server: Server, what: str, body: bytes) -> None:
    answer = ask(server, what)
    assert (answer.status_line, answer.body) == ("HTTP/1.1 200 ", body)
    assert answer.header("content-type") is None


def test_a_tensor_is_saved_as_torch_saves_it(server: Server) -> None:
    loaded = torch.load(io.BytesIO(ask(server, "tensor").body), weights_only=True)
    assert torch.equal(loaded, torch.tensor([[0, 1, 2], [3, 4, 5]]))


def test_the_headers_of_an_answer_are_these_and_no_others(server: Server) -> None:
    answer = ask(server, "str")
    headers = {name.lower(): value for name, value in answer.headers}
    assert len(headers) == len(answer.headers)
    assert uuid.UUID(headers.pop("x-request-id")).version == 4
    assert headers == {
        "pragma": "no-cache",
        "cache-control": "no-cache; no-store, must-revalidate, private",
        "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
        "content-length": "7",
        "connection": "keep-alive",
    }
    assert not answer.closed


def test_headers_of_the_handler_are_sent_as_it_spelled_them(server: Server) -> None:
    answer = ask(server, "headers")
    assert ("X-Dummy", "1") in answer.headers
    assert answer.header("content-type") == "text/plain"


def test_a_content_type_in_other_letters_is_the_only_one(server: Server) -> None:
    assert ask(server, "other case").header("content-type") == "image/png"


def test_the_servers_own_headers_win(server: Server) -> None:
    answer = ask(server, "our headers")
    assert answer.header("x-request-id") != "mine"
    assert answer.header("cache-control") == "no-cache; no-store, must-revalidate, private"
    assert answer.header("pragma") == "no-cache"


def test_headers_that_would_break_the_answer_are_dropped(server: Server) -> None:
    answer = ask(server, "bad headers")
    assert answer.status_line == "HTTP/1.1 200 "
    names = [name.lower() for name, _ in answer.headers if name.lower() not in ("expires", "pragma", "cache-control")]
    assert sorted(names) == ["connection", "content-length", "x-good", "x-request-id"]
    assert answer.body == b"Invalid response"
    assert answer.header("connection") == "keep-alive"


@pytest.mark.parametrize(
    ("status", "phrase", "connection"),
    [
        (200, "", "keep-alive"),
        (201, "Made", "keep-alive"),
        (302, "", "keep-alive"),
        (399, "", "keep-alive"),
        (400, "Bad", "close"),
        (507, "Some phrase", "close"),
        (599, "", "close"),
        (999, "", "close"),
    ],
)
def test_a_status_of_the_handler_keeps_its_body(server: Server, status: int, phrase: str, connection: str) -> None:
    answer = ask(server, f"status {status} {phrase}")
    assert answer.status_line == f"HTTP/1.1 {status} {phrase}"
    assert answer.body == b"Invalid response"
    assert (answer.header("connection"), answer.closed) == (connection, connection == "close")


@pytest.mark.parametrize("status", [99, 100, 0, -1, 1000])
def test_a_status_that_is_none_becomes_500(server: Server, status: int) -> None:
    answer = ask(server, f"status {status} ")
    assert (answer.status, answer.body) == (500, b"Invalid response")


def test_a_phrase_cannot_break_the_status_line(server: Server) -> None:
    answer = ask(server, "status 200 a\r\nx-evil: 1")
    assert answer.status_line == "HTTP/1.1 200 ax-evil: 1"
    assert answer.header("x-evil") is None


def test_a_phrase_may_hold_other_letters(server: Server) -> None:
    assert ask(server, "status 200 grüße").status == 200


def test_statuses_without_a_body_leave_the_connection_usable(server: Server) -> None:
    """204 and 304 cannot carry a body: what the handler returned must not be taken for the next answer."""
    body = b"status 204 "
    head = f"POST /predictions/answers HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    follow_up = b"GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    address = urlsplit(server.inference)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(head + body + follow_up)
        received = connection.makefile("rb").read()
    first, _, second = received.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 204 ")
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")


def test_json_of_the_server_itself(server: Server) -> None:
    answer = exchange(server.inference, b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer.status_line == "HTTP/1.1 200 OK"
    assert answer.body == b'{\n  "status": "Healthy"\n}\n'
    assert answer.header("content-type") == "application/json"
    assert answer.header("content-length") == "26"
    assert answer.header("server") is None
    assert answer.header("date") is None


def test_an_error_closes_the_connection(server: Server) -> None:
    answer = exchange(server.inference, b"GET /predictions/absent HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer.status_line == "HTTP/1.1 404 Not Found"
    assert answer.body == (
        b'{\n  "code": 404,\n  "type": "ModelNotFoundException",\n  "message": "Model not found: absent"\n}\n'
    )
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-request-id") is not None
    assert (answer.header("connection"), answer.closed) == ("close", True)


def test_many_requests_share_a_connection(server: Server) -> None:
    with requests.Session() as session:
        ids = set()
        for _ in range(5):
            answer = session.post(f"{server.inference}/predictions/answers", data=b"int", timeout=10)
            assert answer.content == b"0"
            ids.add(answer.headers["x-request-id"])
        assert len(ids) == 5
        pool = session.get_adapter("http://").poolmanager.pools  # type: ignore[attr-defined]
        assert [pool[key].num_connections for key in list(pool.keys())] == [1]


def test_a_client_that_asks_to_close_is_obeyed(server: Server) -> None:
    answer = exchange(server.inference, b"GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert (answer.status, answer.closed) == (200, True)


def test_cors_headers_are_sent_verbatim(servers: Servers) -> None:
    servers.archives.pack("answers", ANSWERS)
    config = {
        "cors_allowed_origin": "https://a.example",
        "cors_allowed_methods": "GET, POST",
        "cors_allowed_headers": "X-A",
    }
    server = servers.start(["answers.mar"], config)
    for answer in (server.predict("answers", b"int"), server.predict("absent"), server.manage("GET", "models")):
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert answer.headers["access-control-allow-methods"] == "GET, POST"
        assert answer.headers["access-control-allow-headers"] == "X-A"


def test_an_answer_over_the_limit_is_an_error_that_names_it(servers: Servers) -> None:
    servers.archives.pack(
        "large", "def handle(data, context):\n    return data and ['x' * int(row['body']) for row in data]\n"
    )
    server = servers.start(["large.mar"], {"max_response_size": 1000})
    headers = {"Content-Type": "text/plain"}
    assert server.predict("large", "1000", headers=headers).status_code == 200
    answer = server.predict("large", "1001", headers=headers)
    assert answer.status_code == 500
    assert "max_response_size" in answer.json()["message"]
    assert server.predict("large", "1", headers=headers).content == b"x"
