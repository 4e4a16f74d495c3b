"""Every form of a request, and every form that is none."""

from __future__ import annotations

import json
import time

import pytest

from handlers.errors import PredictionException
from handlers.testing import as_request
from handlers.transformer.inputs import parse_request

TEXT = "It was a fine day"


@pytest.mark.parametrize(
    "row",
    [
        {"body": bytearray(TEXT, "utf-8")},
        {"body": TEXT},
        {"body": TEXT.encode()},
        {"data": TEXT},
        {"data": "", "body": TEXT},
        {"data": bytearray(TEXT, "utf-8"), "body": "other"},
        {"text": bytearray(TEXT, "utf-8")},
        {"body": {"text": TEXT}},
        {"body": {"data": TEXT}},
        {"body": {"data": {"text": TEXT}}},
        {"body": bytearray(b'{"text": "It was a fine day"}')},
        {"body": bytearray(b"{'text': 'It was a fine day'}")},
        {"body": bytearray(b" {'data': 'It was a fine day'}\n")},
        {"body": "{\"data\": \"{'text': 'It was a fine day'}\"}"},
        {"body": {"text": TEXT, "other": True}},
        TEXT,
        bytearray(TEXT, "utf-8"),
        {"data": TEXT, "target": 0},
        {"text": TEXT},
    ],
)
def test_one_text(row):
    request = parse_request(row, pair=False)
    assert not request.many
    assert [item.text for item in request.items] == [TEXT]
    assert request.answer(["answer"]) == "answer"


@pytest.mark.parametrize(
    "row",
    [
        {"body": ["a", "b"]},
        {"body": [{"text": "a"}, "b"]},
        {"body": {"text": ["a", "b"]}},
        {"body": {"data": ["a", {"data": "b"}]}},
        {"body": {"instances": ["a", {"text": "b"}]}},
        {"body": bytearray(b'["a", "b"]')},
        {"body": bytearray(b"['a', 'b']")},
        {"body": bytearray(b'{"instances": [{"data": "a"}, {"data": "b"}]}')},
        ["a", "b"],
    ],
)
def test_several_texts_in_one_request(row):
    request = parse_request(row, pair=False)
    assert [item.text for item in request.items] == ["a", "b"]
    assert request.answer([1, 2]) == [1, 2]


def test_a_list_of_one_is_still_answered_by_a_list():
    assert parse_request({"body": ["a"]}, pair=False).answer([1]) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "{'unknown': 'key'}",
        '{"unknown": "key"}',
        "{broken",
        "[1, 2]",
        "[]",
        "{}",
        "{'text'}",
        "(1, 2)",
        '"quoted"',
        "[CLS] is a token",
        "{" * 3000,
        "null",
    ],
)
def test_text_that_only_looks_like_more_is_plain_text(text):
    assert parse_request({"body": text.encode()}, pair=False).items[0].text == text


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ({"body": {"text": TEXT, "target": 1}}, 1),
        ({"body": "{'text': 'x', 'target': (1, 2)}"}, (1, 2)),
        ({"data": TEXT, "target": 0}, 0),
        ({"body": {"data": {"text": TEXT, "target": 2}, "target": 1}}, 2),
        ({"body": {"instances": [TEXT], "target": 3}}, 3),
        ({"body": TEXT, "target": bytearray(b"4")}, "4"),
    ],
)
def test_other_keys_are_options(row, target):
    assert parse_request(row, pair=False).items[0].options["target"] == target


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no body"),
        ({"body": b""}, "empty"),
        ({"body": "   \n"}, "empty"),
        ({"body": None}, "got nothing"),
        ({"body": 5}, "int '5'"),
        ({"body": True}, "bool"),
        ({"body": {"text": 5}}, "int '5'"),
        ({"body": {"text": None}}, "got nothing"),
        ({"body": {"text": ""}}, "empty"),
        ({"body": {"words": "x"}}, r"keys \['words'\]"),
        ({"body": []}, "list of texts is empty"),
        ({"body": [["a"]]}, "list of lists"),
        ({"body": ["a", 5]}, "int '5'"),
        ({"body": {"instances": "a"}}, "instances must be a list"),
        ({"body": b"\xff\xfe"}, "UTF-8"),
        ({"hello world": bytearray()}, "keys"),
        ({"body": {"data": {"data": {"data": {"data": {"data": {"data": "x"}}}}}}}, "nested"),
    ],
)
def test_what_is_no_input_is_refused(row, message):
    with pytest.raises(PredictionException, match=message) as caught:
        parse_request(row, pair=False)
    assert caught.value.error_code == 400


def test_hostile_literals_cost_little():
    started_s = time.perf_counter()
    for text in (
        "[" * 100_000,
        "{'text':" * 50_000,
        "{'a': " + "9" * 1_000_000 + "}",
        "{'text': '" + "x" * 2_000_000 + "'}",
    ):
        assert parse_request({"body": text}, pair=False).items[0].text
    assert time.perf_counter() - started_s < 5


def test_long_json_is_read():
    text = "x" * 2_000_000
    assert parse_request({"body": json.dumps({"text": text})}, pair=False).items[0].text == text


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json"])
def test_the_harness_delivers_bodies_as_the_server_does(content_type):
    body = as_request(json.dumps({"text": TEXT}), content_type)["body"]
    kinds = {None: bytearray, "text/plain": str, "application/json": dict}
    assert type(body) is kinds[content_type]
    assert parse_request({"body": body}, pair=False).items[0].text == TEXT
