"""What a handler sees of every form of request, and which path leads to it."""

from __future__ import annotations

import pytest
from comparison import Case, Difference
from pairs import Pair
from wire_exchange import Headers, Request

ALL_BYTES = bytes(range(256))
JSON = "application/json"
LARGEST = 6_553_500
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=limit"
PERCENT_ENCODED = "".join(f"%{value:02X}" for value in ALL_BYTES).encode()


def post(
    body: bytes, content_type: str | None = None, headers: Headers = (), target: str = "/predictions/mirror"
) -> Request:
    typed = (("Content-Type", content_type),) if content_type else ()
    return Request("POST", target, (*typed, *headers), (body,))


def part(name: str, content: bytes, *, file: str | None = None, content_type: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{file}"' if file is not None else "")
    head = f"Content-Disposition: {disposition}\r\n" + (f"Content-Type: {content_type}\r\n" if content_type else "")
    return f"--limit\r\n{head}\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> Request:
    return post(b"".join(parts) + b"--limit--\r\n", MULTIPART)


BARE_NAME = Difference("A form that ends with a name without `=`", 200)

BODIES = [
    Case("raw without a type", post(b"\x00\xffraw")),
    Case("octet-stream", post(ALL_BYTES, "application/octet-stream")),
    Case("image", post(b"\x89PNG\r\n\x1a\n", "image/png")),
    Case("plain text", post("grüße".encode(), "text/plain")),
    Case("plain text with a charset", post("grüße".encode(), "text/plain; charset=utf-8")),
    Case("plain text that is no UTF-8", post(b"\xff\xfe", "text/plain")),
    Case("text of another type", post(b"a,b", "text/csv")),
    Case("empty text", post(b"", "text/plain")),
    Case("JSON object", post(b'{"a": [1, 2.5, null, true, "x"]}', JSON)),
    Case("JSON with a charset", post(b'{"a": 1}', f"{JSON}; charset=utf-8")),
    Case("JSON text", post(b'"text"', JSON)),
    Case("JSON number", post(b"7", JSON)),
    Case("JSON null", post(b"null", JSON)),
    Case("JSON NaN", post(b"[NaN, Infinity]", JSON)),
    Case("JSON with a key twice", post(b'{"a": 1, "a": 2}', JSON)),
    Case("JSON type in capitals", post(b'{"a": 1}', "Application/JSON")),
    Case("JSON of another type", post(b'{"a": 1}', "application/problem+json")),
    Case("broken JSON", post(b'{"a": ', JSON)),
    Case("empty JSON", post(b"", JSON)),
    Case("JSON that is no UTF-8", post(b'"\xff"', JSON)),
    Case("form", post(b"data=hello&target=1", FORM)),
    Case("form with a charset", post(b"data=hello", f"{FORM}; charset=utf-8")),
    Case("form of all bytes", post(b"data=" + PERCENT_ENCODED, FORM)),
    Case("form with plus signs", post(b"a+b=c+d", FORM)),
    Case("form with a field twice", post(b"data=1&data=2", FORM)),
    Case("form without equals signs", post(b"a&b", FORM), BARE_NAME),
    Case("form with an empty value", post(b"a=&b=1", FORM)),
    Case("form with two equals signs", post(b"a=b=c", FORM)),
    Case("form with UTF-8", post("größe=ü".encode(), FORM)),
    Case("form that is JSON, as curl -d sends it", post(b'{"a": 1}', FORM), BARE_NAME),
    Case("form that is JSON with an equals sign", post(b'{"a": "b=c"}', FORM)),
    Case("empty form", post(b"", FORM)),
    Case("form in pieces", Request("POST", "/predictions/mirror", (("Content-Type", FORM),), (b"a=", b"1&b=2"))),
    Case("multipart field", form(part("data", b"hello"))),
    Case("multipart field of all bytes", form(part("data", ALL_BYTES))),
    Case("multipart field with a type", form(part("data", b'{"a": 1}', content_type=JSON))),
    Case("multipart file without a type", form(part("data", ALL_BYTES, file="a.bin"))),
    Case("multipart file of all bytes", form(part("data", ALL_BYTES, file="a", content_type="image/png"))),
    Case("multipart file of JSON", form(part("data", b'{"a": 1}', file="a.json", content_type=JSON))),
    Case("multipart file of broken JSON", form(part("data", b"{", file="a.json", content_type=JSON))),
    Case("multipart file of text", form(part("data", "ü".encode(), file="a.txt", content_type="text/plain"))),
    Case("multipart file, type with charset", form(part("a", b"{}", file="a", content_type=f"{JSON}; charset=utf-8"))),
    Case("multipart empty file", form(part("data", b"", file="a", content_type="text/plain"))),
    Case("multipart empty file name", form(part("data", b"x", file=""))),
    Case("multipart name twice", form(part("data", b"1"), part("data", b"2"))),
    Case("multipart fields and files", form(part("b", b"1"), part("a", b"2", file="f"), part("c", b"3"))),
    Case("multipart without parts", form()),
    Case("body in pieces", Request("POST", "/predictions/mirror", (), (b"one", b"two", ALL_BYTES))),
    Case("JSON in pieces", Request("POST", "/predictions/mirror", (("Content-Type", JSON),), (b'{"a"', b": 1}"))),
    Case("no body", post(b"")),
    Case("GET without a body", Request("GET", "/predictions/mirror")),
    Case("GET with a body", Request("GET", "/predictions/mirror", (), (b"hello",))),
    Case("PUT", Request("PUT", "/predictions/mirror", (), (b"hello",))),
    Case("PATCH", Request("PATCH", "/predictions/mirror", (), (b"hello",))),
    Case("DELETE", Request("DELETE", "/predictions/mirror")),
    Case("compressed", post(b"\x1f\x8b\x08", JSON, (("Content-Encoding", "gzip"),))),
    Case("waits for 100 Continue", post(b"hello", None, (("Expect", "100-continue"),))),
]

LIMITS = [
    Case("as large as it may be", post(b"x" * LARGEST, target="/predictions/nobody")),
    Case("one byte too large", post(b"x" * (LARGEST + 1)), Difference("Bodies that are too large", 413)),
    Case("too large in pieces", Request("POST", "/predictions/mirror", (), (b"x" * LARGEST, b"x"))),
    Case(
        "a request line too long",
        Request("GET", "/predictions/" + "m" * 5000),
        Difference("Longest request line", 404, "Model not found: mmm"),
    ),
    Case("a header too long", post(b"", None, (("X-Long", "x" * 9000),))),
    Case("as many form fields as there may be", post(b"&".join(b"f%d=1" % n for n in range(1000)), FORM)),
]

HEADERS = [
    Case("all the handler can see", post(b"", None, (("Surroundings", "1"),))),
    Case("the case of names", post(b"", None, (("X-MiXed-cAse", "A b; c"), ("x-lower", "1"), ("X_UNDER", "2")))),
    Case("a header twice", post(b"", None, (("X-Twice", "1"), ("X-Twice", "2")))),
    Case("a header in two cases", post(b"", None, (("X-Twice", "1"), ("x-twice", "2")))),
    Case("an empty header", post(b"", None, (("X-Empty", ""),))),
    Case("the client's request id", post(b"", None, (("x-request-id", "mine"), ("X-Request-Id", "mine")))),
    Case("the client's explain", post(b"", None, (("explain", "True"),))),
    Case("the client's Explain", post(b"", None, (("Explain", "True"),))),
    Case("the client's url_path", post(b"", None, (("url_path", "a/b"),))),
    Case("a part named like a header", form(part("Content-Type", b"1"))),
    Case(
        "connection close",
        post(b"", None, (("Connection", "close"),)),
        Difference("`Connection: close` of a client", 200),
    ),
]

ROUTES = [
    Case("a version", post(b"", target="/predictions/mirror/2.0")),
    Case("the default version by its name", post(b"", target="/predictions/mirror/1.0")),
    Case("a path after the version", post(b"", target="/predictions/mirror/2.0/v1/chat/completions")),
    Case("a slash at the end", post(b"", target="/predictions/mirror/")),
    Case("slashes after the version", post(b"", target="/predictions/mirror/1.0/a//b//")),
    Case("percent signs", post(b"", target="/predictions/%6Dirror/1%2E0/a%20b")),
    Case("an encoded slash", post(b"", target="/predictions/mirror%2F2.0")),
    Case("a query that nobody is told", post(b"", target="/predictions/mirror?a=1")),
    Case("invocations by query", post(b"x", target="/invocations?model_name=mirror&a=1&a=2&b=%C3%BC+c")),
    Case("invocations by a form", post(b"model_name=mirror&a=1", FORM, target="/invocations")),
    Case("invocations of nothing", post(b"", target="/invocations")),
    Case("invocations of an unknown model", post(b"", target="/invocations?model_name=nobody")),
    Case("invoke", post(b"x", "text/plain", target="/models/mirror/invoke?a=1;b=2&c")),
    Case("invoke, query and form", post(b"a=form", FORM, target="/models/mirror/invoke?a=query&b=2")),
    Case("invoke an unknown model", post(b"", target="/models/nobody/invoke")),
    Case("legacy predict", Request("GET", "/mirror/predict?data=test")),
    Case("legacy predict of a version", Request("GET", "/mirror/2.0/predict?data=test")),
    Case("legacy predict of an unknown model", Request("GET", "/nobody/predict?data=test")),
    Case("KServe v1", post(b'{"instances": [1]}', JSON, target="/v1/models/mirror:predict?a=1")),
    Case("KServe v1 explain", post(b'{"instances": [1]}', JSON, target="/v1/models/mirror:explain")),
    Case("KServe v1 of an unknown model", post(b"{}", JSON, target="/v1/models/nobody:predict")),
    Case("explanations", post(b"x", target="/explanations/mirror")),
    Case("explanations of a version", post(b"x", target="/explanations/mirror/2.0")),
    Case("explanations after the version", post(b"x", target="/explanations/mirror/2.0/a/b")),
    Case("explanations of an unknown model", post(b"x", target="/explanations/nobody")),
    Case("an unknown model", post(b"x", target="/predictions/nobody")),
    Case("an unknown version", post(b"x", target="/predictions/mirror/9.9")),
    Case("an unknown model and version", post(b"x", target="/predictions/nobody/9.9")),
    Case("predictions of nothing", post(b"x", target="/predictions")),
    Case("an unknown path", Request("GET", "/nothing/here")),
    Case("two slashes", Request("GET", "//ping")),
    Case("an escape that is none", Request("GET", "/predictions/%zz"), Difference("Malformed percent escapes", 403)),
    Case("describe on the inference port", Request("GET", "/models/mirror")),
    Case("root", Request("GET", "/")),
    Case("ping", Request("GET", "/ping")),
    Case("ping with more", Request("GET", "/ping/more")),
    Case("the options of an unknown model", Request("OPTIONS", "/predictions/nobody")),
]

OPEN_INFERENCE = [
    Case("Open Inference without an envelope", post(b'{"inputs": []}', JSON, target="/v2/models/mirror/infer")),
    Case("Open Inference explain", post(b'{"inputs": []}', JSON, target="/v2/models/mirror/explain")),
]


@pytest.mark.parametrize("case", BODIES + LIMITS + HEADERS + ROUTES + OPEN_INFERENCE, ids=str)
def test_same_answer(pair: Pair, case: Case) -> None:
    pair.check_inference(case)
