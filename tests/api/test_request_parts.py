"""What a handler is given for each kind of body, byte for byte."""

from __future__ import annotations

import gzip
import json
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from servers import MIRROR, Server, Servers, exchange

ALL_BYTES = bytes(range(256))


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    module_servers.archives.pack("mirror", MIRROR)
    return module_servers.start(["mirror.mar"])


def seen(server: Server, body: bytes, content_type: str | None = None, path: str = "predictions/mirror") -> Any:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = server.infer("POST", path, data=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def raw(data: bytes) -> list[str]:
    return ["bytearray", data.hex()]


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        (None, ALL_BYTES, raw(ALL_BYTES)),
        ("application/octet-stream", ALL_BYTES, raw(ALL_BYTES)),
        ("image/png", b"\x89PNG", raw(b"\x89PNG")),
        (None, b"", raw(b"")),
        ("application/json", b'{"a": [1, 2.5, null, true, "\xc3\xbc"]}', ["dict", {"a": [1, 2.5, None, True, "ü"]}]),
        ("application/json; charset=utf-8", b"[1]", ["list", [1]]),
        ("application/json;charset=utf-8", b'"text"', ["str", "text"]),
        ("application/json", b"17", ["int", 17]),
        ("application/json", b"null", ["NoneType", None]),
        ("application/json", b"", raw(b"")),
        ("application/json", b'{"a": ', raw(b'{"a": ')),
        ("application/json", b"{'a': 1}", raw(b"{'a': 1}")),
        ("application/json", b"\xff\xfe{}", raw(b"\xff\xfe{}")),
        ("application/json", b"[" * 100_000, raw(b"[" * 100_000)),
        # The comparison is case-sensitive.
        ("Application/JSON", b"[1]", raw(b"[1]")),
        ("application/vnd.api+json", b"[1]", raw(b"[1]")),
        ("text/plain", b"gr\xc3\xbc\xc3\x9fe", ["str", "grüße"]),
        ("text/html; charset=utf-8", b"<p>", ["str", "<p>"]),
        ("text/plain", b"\xff", raw(b"\xff")),
        ("text/plain", b"", ["str", ""]),
    ],
)
def test_a_plain_body(server: Server, content_type: str | None, body: bytes, value: list[Any]) -> None:
    assert seen(server, body, content_type)["parts"] == {"body": value}


def test_a_get_without_a_body(server: Server) -> None:
    assert server.infer("GET", "predictions/mirror").json()["parts"] == {"body": raw(b"")}


def test_a_chunked_body(server: Server) -> None:
    answer = server.predict("mirror", iter([b"one ", b"two"]))
    assert answer.json()["parts"] == {"body": raw(b"one two")}


def test_form_fields_hold_every_byte_exactly(server: Server) -> None:
    form = f"data={quote_from_bytes(ALL_BYTES, safe='')}&plus=a+b&raw=%2B&empty=&twice=1&twice=2".encode()
    assert seen(server, form, "application/x-www-form-urlencoded")["parts"] == {
        "data": raw(ALL_BYTES),
        "plus": raw(b"a b"),
        "raw": raw(b"+"),
        "empty": raw(b""),
        "twice": raw(b"2"),
    }


def test_an_empty_form_has_no_parts(server: Server) -> None:
    assert seen(server, b"", "application/x-www-form-urlencoded")["parts"] == {}


def test_a_form_type_with_a_charset_is_a_form(server: Server) -> None:
    parts = seen(server, b"data=x", "application/x-www-form-urlencoded; charset=UTF-8")["parts"]
    assert parts == {"data": raw(b"x")}


def multipart(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """Parts as (head lines, content)."""
    body = b"".join(b"--edge\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def test_multipart_fields_are_raw_and_files_have_their_own_types(server: Server) -> None:
    disposition = 'Content-Disposition: form-data; name="{}"'
    file = disposition + '; filename="f"'
    body, content_type = multipart(
        (disposition.format("field"), ALL_BYTES),
        (disposition.format("typed") + "\r\nContent-Type: application/json", b"[1]"),
        (file.format("file"), ALL_BYTES),
        (file.format("json") + "\r\nContent-Type: application/json", b"[1]"),
        (file.format("text") + "\r\nContent-Type: text/plain; charset=utf-8", b"\xc3\xbc"),
        (file.format("broken") + "\r\nContent-Type: application/json", b"["),
        (disposition.format("twice"), b"1"),
        (disposition.format("twice"), b"2"),
    )
    assert seen(server, body, content_type)["parts"] == {
        "field": raw(ALL_BYTES),
        "typed": raw(b"[1]"),
        "file": raw(ALL_BYTES),
        "json": ["list", [1]],
        "text": ["str", "ü"],
        "broken": raw(b"["),
        "twice": raw(b"2"),
    }


def test_headers_of_parts_are_visible_by_name(server: Server) -> None:
    answer = server.predict("mirror", files={"data": ("f.json", b"[1]", "application/json")})
    assert answer.json()["headers"]["data"] == {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data"),
        (b"--edge\r\n\r\nno name\r\n--edge--\r\n", "multipart/form-data; boundary=edge"),
        (multipart(("Content-Disposition: form-data", b"x"))[0], "multipart/form-data; boundary=edge"),
        (multipart(('Content-Disposition: form-data; name="a"', b"x"))[0][:-12], "multipart/form-data; boundary=edge"),
        (b"no boundary in here", "multipart/form-data; boundary=edge"),
        (
            multipart(("Content-Type: multipart/mixed; boundary=i", b"--i\r\n\r\nx\r\n--i--"))[0],
            "multipart/form-data; boundary=edge",
        ),
        (
            multipart(*[(f'Content-Disposition: form-data; name="{index}"', b"") for index in range(1001)])[0],
            "multipart/form-data; boundary=edge",
        ),
        (b"&".join(b"a%d=1" % index for index in range(1001)), "application/x-www-form-urlencoded"),
    ],
    ids=["no boundary", "no head", "no name", "no end", "no part", "nested", "1001 parts", "1001 fields"],
)
def test_a_malformed_form_is_a_bad_request(server: Server, body: bytes, content_type: str) -> None:
    answer = server.predict("mirror", body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["type"]) == (400, "BadRequestException"), answer.text


@pytest.mark.parametrize("path", ["invocations?model_name=mirror&", "models/mirror/invoke?", "mirror/predict?"])
def test_query_parameters_reach_the_handler_on_some_routes(server: Server, path: str) -> None:
    parts = seen(server, b"text", path=f"{path}a=1+2;b=%FF&c")["parts"]
    parts.pop("model_name", None)
    assert parts == {"a": raw(b"1 2"), "b": raw(b"\xff"), "c": raw(b""), "body": raw(b"text")}


def test_the_body_wins_over_a_query_parameter_of_the_same_name(server: Server) -> None:
    assert seen(server, b"text", path="models/mirror/invoke?body=query")["parts"] == {"body": raw(b"text")}


@pytest.mark.parametrize("path", ["predictions/mirror?a=1", "explanations/mirror?a=1", "v1/models/mirror:predict?a=1"])
def test_query_parameters_are_ignored_on_the_others(server: Server, path: str) -> None:
    assert seen(server, b"text", path=path)["parts"] == {"body": raw(b"text")}


def test_header_names_keep_the_spelling_of_the_client(server: Server) -> None:
    request = (
        b"POST /predictions/mirror HTTP/1.1\r\nHost: h\r\nX-Mixed-CASE: One\r\nx-twice: 1\r\nx-twice: 2\r\n"
        b"x-request-id: mine\r\nContent-Length: 0\r\n\r\n"
    )
    answer = exchange(server.inference, request)
    document = json.loads(answer.body)
    assert document["headers"]["X-Mixed-CASE"] == "One"
    assert "x-mixed-case" not in document["headers"]
    assert document["headers"]["x-twice"] == "2"
    assert document["id"] == answer.header("x-request-id") != "mine"


def test_parts_are_not_decoded_where_the_operator_says_so(servers: Servers) -> None:
    servers.archives.pack("mirror", MIRROR)
    server = servers.start(["mirror.mar"], {"decode_input_request": "false"})
    assert seen(server, b"[1]", "application/json")["parts"] == {"body": raw(b"[1]")}
    assert seen(server, b"text", "text/plain")["parts"] == {"body": raw(b"text")}


@pytest.mark.parametrize(
    ("size", "status"), [(1000, 200), (1001, 413), (100_000, 413)], ids=["limit", "one over", "far over"]
)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", ["raw", "multipart"])
def test_the_limit_on_bodies_is_inclusive(limited: Server, size: int, status: int, chunked: bool, kind: str) -> None:
    body, content_type = bytes(size), "application/octet-stream"
    if kind == "multipart":
        frame = len(multipart(('Content-Disposition: form-data; name="a"', b""))[0])
        body, content_type = multipart(('Content-Disposition: form-data; name="a"', bytes(size - frame)))
        assert len(body) == size
    data = iter([body[:400], body[400:]]) if chunked else body
    answer = limited.predict("mirror", data, headers={"Content-Type": content_type})
    assert answer.status_code == status
    if status == 413:
        assert answer.content == b""
        assert answer.headers["content-length"] == "0"
        assert "content-type" not in answer.headers


@pytest.fixture(scope="module")
def limited(module_servers: Servers) -> Server:
    module_servers.archives.pack("mirror", MIRROR, force=True)
    return module_servers.start(["mirror.mar"], {"max_request_size": 1000})


def test_an_announced_body_that_is_too_large_is_refused_before_it_is_sent(limited: Server) -> None:
    head = b"PUT /predictions/mirror HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
    answer = exchange(limited.inference, head)
    assert (answer.status, answer.body, answer.header("connection")) == (413, b"", "close")


def test_a_compressed_body_reaches_the_handler_as_it_was_sent(server: Server) -> None:
    packed = gzip.compress(b"hello")
    answer = server.infer("POST", "predictions/mirror", data=packed, headers={"Content-Encoding": "gzip"})
    assert answer.json()["parts"] == {"body": raw(packed)}
    assert answer.json()["headers"]["Content-Encoding"] == "gzip"
