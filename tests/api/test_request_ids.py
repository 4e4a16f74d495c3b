"""Ids of requests, read by the standard library's own idea of a UUID."""

from __future__ import annotations

import uuid

from model_server.api.request_ids import RequestIds


def test_they_are_random_uuids_in_their_usual_form() -> None:
    ids = RequestIds()
    for _ in range(1000):
        text = ids.new()
        read = uuid.UUID(text)
        assert str(read) == text
        assert (read.version, read.variant) == (4, uuid.RFC_4122)


def test_none_comes_twice() -> None:
    one, other = RequestIds(), RequestIds()
    drawn = [each.new() for _ in range(2000) for each in (one, other)]
    assert len(set(drawn)) == 4000


def test_every_digit_that_may_vary_does() -> None:
    ids = RequestIds()
    seen = [set(digits) for digits in zip(*(ids.new() for _ in range(2000)), strict=True)]
    fixed = {8: {"-"}, 13: {"-"}, 14: {"4"}, 18: {"-"}, 19: set("89ab"), 23: {"-"}}
    for position, digits in enumerate(seen):
        assert digits == fixed.get(position, set("0123456789abcdef"))
