"""Token authorization, request by request, with each server's own keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from comparison import Difference, check
from pairs import Endpoints, Pair, side_by_side
from wire_exchange import Answer, Headers, Request

KEYS = ("management", "inference", "API")


@pytest.fixture(scope="module")
def guarded(torchserve_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both servers as they are without --disable-token-auth; they have no models."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "store").mkdir()
    with side_by_side(folder, folder / "store", [], {}, tokens=True) as running:
        yield running


def document(server: Endpoints) -> dict[str, dict[str, str]]:
    content: dict[str, dict[str, str]] = json.loads((server.folder / "key_file.json").read_text())
    return content


def with_keys(text: str, server: Endpoints) -> str:
    """`text` with each {NAME} replaced by that key of this server."""
    for name, entry in document(server).items():
        text = text.replace(f"{{{name}}}", entry["key"])
    return text


def ask(server: Endpoints, port: str, method: str, target: str, *values: str) -> Answer:
    """With one header Authorization for each of `values`."""
    headers: Headers = tuple(("Authorization", with_keys(value, server)) for value in values)
    request = Request(method, target, headers)
    return server.infer(request) if port == "inference" else server.manage(request)


def both(pair: Pair, port: str, method: str, target: str, *values: str) -> tuple[Answer, Answer]:
    return pair.both(lambda server: ask(server, port, method, target, *values))


@pytest.mark.parametrize("port", ["inference", "management"])
@pytest.mark.parametrize("value", ["Bearer {management}", "Bearer {inference}", "Bearer {API}", None])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/nothing"),
        ("GET", "/models"),
        ("PUT", "/models"),
        ("POST", "/predictions/nobody"),
        ("OPTIONS", "/predictions/nobody"),
        ("GET", "/models/nobody"),
        ("GET", "/token"),
    ],
)
def test_which_key_opens_what(guarded: Pair, port: str, value: str | None, method: str, target: str) -> None:
    check(*both(guarded, port, method, target, *([value] if value else [])))


@pytest.mark.parametrize("port", ["inference", "management"])
@pytest.mark.parametrize(("method", "target"), [("OPTIONS", "/"), ("GET", "/api-description")])
def test_the_description_is_for_everybody(guarded: Pair, port: str, method: str, target: str) -> None:
    """What they describe is compared elsewhere."""
    assert [answer.status for answer in both(guarded, port, method, target)] == [200, 200]


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer  {management}"],
        ["Bearer\t{management}"],
        ["Bearer {management} "],
        ["bearer {management}"],
        ["Bearer{management}"],
        ["Bearer {management} x"],
        ["x Bearer {management}"],
        ["Bearer {management},"],
        ["{management}"],
        ["Basic {management}"],
        ["Bearer"],
        [""],
        ["Bearer \xe9{management}"],
        ["Bearer " + "x" * 4_000],
        ["Bearer x", "Bearer {management}"],
        ["Bearer {management}", "Bearer x"],
    ],
)
def test_forms_of_the_header(guarded: Pair, values: list[str]) -> None:
    check(*both(guarded, "management", "GET", "/models", *values))


def test_a_body_that_is_too_large_is_refused_before_the_token(guarded: Pair) -> None:
    request = Request("POST", "/predictions/nobody", (), (bytes(6_553_501),))
    difference = Difference("Bodies that are too large", 413)
    check(*guarded.both(lambda server: server.infer(request)), difference)


def test_ping_is_open_here(guarded: Pair) -> None:
    check(*both(guarded, "inference", "GET", "/ping", "Bearer {inference}"))
    check(*both(guarded, "inference", "GET", "/ping"), Difference("Token for `/ping`", 200, '{\n  "status": "Healthy"'))


# --- renewal ---


@pytest.mark.parametrize("query", ["", "?type=", "?type=API", "?type=Inference", "?type=x", "?type=x&type=inference"])
@pytest.mark.parametrize("value", ["Bearer {API}", "Bearer {management}", "Bearer x"])
def test_renewal_that_is_refused(guarded: Pair, query: str, value: str) -> None:
    check(*both(guarded, "management", "GET", f"/token{query}", value))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("target", ["/token?type=inference", "/token/?type=management", "/token?type=inference;type=x"])
def test_renewal(guarded: Pair, method: str, target: str) -> None:
    before = guarded.both(document)
    check(*both(guarded, "management", method, target, "Bearer {API}"))
    after = guarded.both(document)
    changed = [[name for name in KEYS if old[name] != new[name]] for old, new in zip(before, after, strict=True)]
    assert changed[0] == changed[1] == [re.findall("type=(management|inference)", target)[0]]


DIFFERENT = Difference("`/token`", 404)


@pytest.mark.parametrize("target", ["/tokens", "/models/token", "/x?y=/token"])
def test_other_paths_with_that_word(guarded: Pair, target: str) -> None:
    check(*both(guarded, "management", "GET", target, "Bearer {management}"), DIFFERENT)


def test_longer_paths_renew_nothing(guarded: Pair) -> None:
    theirs, ours = both(guarded, "management", "GET", "/token/x?type=inference", "Bearer {API}")
    check(theirs, ours, Difference("`/token`", 400))


# --- the file ---


def test_the_key_files(guarded: Pair) -> None:
    theirs, ours = guarded.both(lambda server: server.folder / "key_file.json")
    assert theirs.stat().st_mode == ours.stat().st_mode

    def form(text: str) -> str:
        text = re.sub(r'"key": "[A-Za-z0-9_-]+"', '"key": "KEY"', text)
        return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "INSTANT", text)

    assert form(theirs.read_text()) == form(ours.read_text())
    assert "KEY" in form(ours.read_text()) and "INSTANT" in form(ours.read_text())
