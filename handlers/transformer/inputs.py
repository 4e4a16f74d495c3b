"""Requests to texts: every form a client may send, in one shape.

Plain text; dict text, as JSON or as a Python literal; parsed JSON; `{"instances": [...]}`; a list of texts. A dict has
the key `text` or `data` (`question` and `context` where a pair is asked for); its other keys are options of the
request. An input of the Open Inference Protocol has them as `parameters`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from handlers.errors import PredictionException
from handlers.transformer.tensor_inputs import is_tensor, parameters_of, texts_of

# A Python literal longer than that is taken for text: evaluating it costs hundreds of times its size in memory.
MAX_LITERAL_CHARACTERS = 1_000_000

# A list in `data` in `body` is as deep as any client was seen to go.
MAX_NESTING = 4

_WRAPPERS = ("instances", "data", "body")
_TEXT_KEYS = ("text", *_WRAPPERS)
_PAIR_KEYS = ("question", "context", "text", *_WRAPPERS)


@dataclass(frozen=True, slots=True)
class Item:
    """One text to be answered.

    Attributes:
        text: the text, or the question of a pair.
        context: the second text of a pair, else None.
        options: everything else the client sent with it: target, n_steps, parameters.
    """

    text: str
    context: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `many` is whether it was a list, so that its answer is one too."""

    items: list[Item]
    many: bool

    def answer(self, answers: list[Any]) -> Any:
        return answers if self.many else answers[0]


def parse_request(row: object, pair: bool) -> Request:
    """One row of a batch, enveloped or not.

    Args:
        row: what the worker hands over: a dict with `data` or `body`, or, behind the body envelope, their value.
        pair: whether question and context are asked for instead of a text.

    Raises:
        PredictionException: 400, saying what is missing or wrong.
    """
    if isinstance(row, Mapping) and not row:
        raise _bad("the request has no body")
    if isinstance(row, Mapping) and "data" not in row and "body" in row:
        others = {key: _decoded(value) for key, value in row.items() if key != "body"}
        return _Parser(pair).parse(row["body"], others)
    return _Parser(pair).parse(row, {})


class _Parser:
    def __init__(self, pair: bool) -> None:
        self._pair = pair
        self._keys = _PAIR_KEYS if pair else _TEXT_KEYS

    def parse(self, value: object, options: Mapping[str, Any], depth: int = 0) -> Request:
        if depth > MAX_NESTING:
            raise _bad(f"the input is nested more than {MAX_NESTING} levels deep")
        value = _decoded(value)
        if isinstance(value, str):
            literal = self._literal(value)
            if literal is None:
                return self._text(value, options)
            value = literal
        if isinstance(value, Mapping):
            if is_tensor(value):
                return self.parse(texts_of(value), {**options, **parameters_of(value)}, depth + 1)
            return self._mapping(value, options, depth)
        if isinstance(value, list):
            return self._list(value, options, depth)
        raise _bad(f"expected {self._expected()}, got {_named(value)}")

    def _mapping(self, value: Mapping[str, Any], options: Mapping[str, Any], depth: int) -> Request:
        content = [key for key in self._keys if key in value]
        if not content:
            raise _bad(f"expected {self._expected()}, got an object with the keys {sorted(map(str, value))[:8]}")
        options = {**options, **{key: _decoded(item) for key, item in value.items() if key not in self._keys}}
        if self._pair and ("question" in value or "context" in value):
            question, context = self._string(value, "question"), self._string(value, "context")
            return Request([Item(question, context, options)], many=False)
        key = next((key for key in content if value[key]), content[0])
        inner = _decoded(value[key])
        if key == "text" and isinstance(inner, str):
            return self._text(inner, options)
        if key == "instances" and not isinstance(inner, list):
            raise _bad(f"instances must be a list, got {_named(inner)}")
        return self.parse(inner, options, depth + 1)

    def _list(self, values: list[Any], options: Mapping[str, Any], depth: int) -> Request:
        if not values:
            raise _bad("the list of texts is empty")
        requests = [self.parse(value, options, depth + 1) for value in values]
        if any(request.many for request in requests):
            raise _bad("expected a list of texts, got a list of lists")
        return Request([request.items[0] for request in requests], many=True)

    def _text(self, text: str, options: Mapping[str, Any]) -> Request:
        if self._pair:
            raise _bad(f"expected {self._expected()}, got plain text" if text.strip() else "the request has no text")
        if not text.strip():
            raise _bad("the text is empty")
        return Request([Item(text, None, options)], many=False)

    def _string(self, value: Mapping[str, Any], key: str) -> str:
        if key not in value:
            raise _bad(f"the key {key} is missing; expected {self._expected()}")
        text = _decoded(value[key])
        if not isinstance(text, str):
            raise _bad(f"{key} must be text, got {_named(text)}")
        if not text.strip():
            raise _bad(f"the {key} is empty")
        return text

    def _literal(self, text: str) -> dict[str, Any] | list[Any] | None:
        """The dict or list that a text spells out, if it is one meant for us; None for plain text."""
        literal = _evaluated(text)
        if isinstance(literal, dict):
            return literal if self._is_ours(literal) else None
        if isinstance(literal, list) and literal and all(isinstance(x, str) or self._is_ours(x) for x in literal):
            return literal
        return None

    def _is_ours(self, value: object) -> bool:
        return isinstance(value, dict) and any(key in value for key in self._keys)

    def _expected(self) -> str:
        if self._pair:
            return 'an object {"question": "...", "context": "..."} or a list of them'
        return 'text, an object {"text": "..."} or a list of texts'


def _evaluated(text: str) -> object:
    text = text.strip()
    if not text.startswith(("{", "[")):
        return None
    for read in (json.loads, _evaluated_literal):
        try:
            value: object = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value
    return None


def _evaluated_literal(text: str) -> object:
    return ast.literal_eval(text) if len(text) <= MAX_LITERAL_CHARACTERS else None


def _decoded(value: object) -> object:
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"the text is not valid UTF-8: {error.reason} at byte {error.start}") from error


def _named(value: object) -> str:
    if value is None:
        return "nothing"
    return f"{type(value).__name__} {str(value)[:40]!r}"


def _bad(message: str) -> PredictionException:
    return PredictionException(message, 400)
