"""Readers of single YAML values, strict about types as TorchServe's are: 4 is an integer, "4" and 4.0 are not."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Reader = Callable[[object], Any]

_INTEGER_RANGE = range(-(2**31), 2**31)  # Java's int


class Unusable(ValueError):
    """The value does not fit; the text says what would."""


def read_fields(
    document: Mapping[Any, object], fields: Mapping[str, tuple[str, Reader]]
) -> tuple[dict[str, Any], list[str]]:
    """Field name -> value for every key that is there and usable, and a message for every one that is not."""
    values: dict[str, Any] = {}
    messages = []
    for key, (field, read) in fields.items():
        if document.get(key) is None:
            continue
        try:
            values[field] = read(document[key])
        except Unusable as error:
            messages.append(f"Invalid {key}: {reprlib.repr(document[key])}, should be {error}")
    return values, messages


def integer(at_least: int | None = None, raised_to: int | None = None) -> Reader:
    """Reader of an integer that is refused below `at_least`, or lifted to `raised_to`."""

    def read(value: object) -> int:
        number = _integer(value, "integer")
        if at_least is not None and number < at_least:
            raise Unusable(f"integer of {at_least} or more")
        return number if raised_to is None else max(raised_to, number)

    return read


def integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise Unusable("list of integers")
    return tuple(_integer(item, "list of integers") for item in value)


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Unusable("boolean")
    return value


def text(value: object) -> str:
    if not isinstance(value, str):
        raise Unusable("string")
    return value


def one_of(*choices: str) -> Reader:
    """Reader of one of a few words, in any case."""

    def read(value: object) -> str:
        word = value.lower() if isinstance(value, str) else ""
        if word not in choices:
            raise Unusable(f"one of {', '.join(choices)}")
        return word

    return read


def _integer(value: object, expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in _INTEGER_RANGE:
        raise Unusable(expected)
    return value
