"""One request, two answers, and what differs between them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from pprint import pformat
from typing import Any

from wire_exchange import Answer, Headers, Request

COMPATIBILITY = Path(__file__).parents[2] / "docs" / "compatibility.md"

# Follow from the body, or differ from request to request.
_HEADERS_OF_ONE_ANSWER = ("content-length", "x-request-id")
_FRAMING = ("connection", "content-length", "transfer-encoding")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ERROR_KEYS = ["code", "type", "message"]
# Of a worker in a description: how many keys TorchServe has, and which of them differ from run to run.
_WORKER_KEYS = 7
_OF_ONE_RUN = ("id", "startTime", "memoryUsage", "pid")


@dataclass(frozen=True, slots=True)
class Difference:
    """How our answer differs on purpose.

    Attributes:
        topic: first cell of the row of docs/compatibility.md that states it and says why.
        status: of our answer.
        begins: how its body begins, or the message of an error.
    """

    topic: str
    status: int
    begins: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One request whose answers have to be equal, or differ as a row of docs/compatibility.md says."""

    name: str
    request: Request
    differs: Difference | None = None

    def __str__(self) -> str:
        return self.name


def check(theirs: Answer, ours: Answer, differs: Difference | None = None) -> None:
    """Fails when the answers differ, or where they should, when they do not or ours is another."""
    found = differences(theirs, ours)
    if differs is None:
        assert not found, "\n".join(found)
        return
    assert f"| {differs.topic} |" in COMPATIBILITY.read_text(), "a difference without its row in docs/compatibility.md"
    assert found != [], "no difference any more: take it out of the table and out of docs/compatibility.md"
    assert ours.status == differs.status
    assert _message(ours).startswith(differs.begins)


def differences(theirs: Answer, ours: Answer) -> list[str]:
    """A text for everything that a client could tell the two servers apart by."""
    compared = {
        "status": (theirs.status, ours.status),
        "reason phrase": (theirs.phrase, ours.phrase),
        "headers": (_headers(theirs), _headers(ours)),
        "has a request id": (_has_request_id(theirs), _has_request_id(ours)),
        "chunks": (theirs.chunks and _without_ids(theirs), ours.chunks and _without_ids(ours)),
        "body": _bodies(theirs, ours),
    }
    return [f"{what}:\n{_shown(first, second)}" for what, (first, second) in compared.items() if first != second]


def _shown(theirs: object, ours: object) -> str:
    """Where the two differ, line by line."""
    first, second = (each if isinstance(each, str) else pformat(each) for each in (theirs, ours))
    return "\n".join(unified_diff(first.splitlines(), second.splitlines(), "TorchServe", "ours", lineterm="", n=0))


def _headers(answer: Answer) -> Headers:
    """In the server's own spelling, but for those that every HTTP library spells in its own way."""
    named = [(name.lower() if name.lower() in _FRAMING else name, value) for name, value in answer.headers]
    return tuple(sorted((name, value) for name, value in named if name not in _HEADERS_OF_ONE_ANSWER))


def _has_request_id(answer: Answer) -> bool:
    return bool(_UUID.fullmatch(answer.header("x-request-id") or ""))


def _without_ids(answer: Answer) -> list[bytes]:
    """The pieces of the body, with the id of this request replaced wherever its handler has put it."""
    request_id = (answer.header("x-request-id") or "-").encode()
    return [piece.replace(request_id, b"<request id>") for piece in answer.chunks or (answer.body,)]


def _bodies(theirs: Answer, ours: Answer) -> tuple[object, object]:
    first, second = b"".join(_without_ids(theirs)), b"".join(_without_ids(ours))
    their_document, our_document = _document(first), _document(second)
    if _is_error(their_document) and _is_error(our_document):
        return their_document, _as_far_as(their_document, our_document)
    if _is_description(their_document) and _is_description(our_document):
        keys = list(their_document[0])
        return [_known(model, keys) for model in their_document], [_known(model, keys) for model in our_document]
    return first.decode(errors="backslashreplace"), second.decode(errors="backslashreplace")


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _is_error(document: Any) -> bool:
    return isinstance(document, dict) and list(document) == _ERROR_KEYS


def _as_far_as(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Ours without what follows their message."""
    return {**ours, "message": ours["message"][: len(theirs["message"])]}


def _is_description(document: Any) -> bool:
    return isinstance(document, list) and bool(document) and isinstance(document[0], dict) and "modelUrl" in document[0]


def _known(model: dict[str, Any], keys: list[str]) -> list[tuple[str, Any]]:
    """The keys of a description that TorchServe has, in order, without what differs from run to run."""
    known = [(key, value) for key, value in model.items() if key in keys]
    return [(key, [_worker(each) for each in value] if key == "workers" else value) for key, value in known]


def _worker(worker: dict[str, Any]) -> dict[str, Any]:
    """TorchServe's keys, which come first, with the values that do not differ from run to run."""
    kept = {key: "" if key in _OF_ONE_RUN else value for key, value in worker.items()}
    return dict(list(kept.items())[:_WORKER_KEYS])


def _message(answer: Answer) -> str:
    document = _document(answer.body)
    return str(document["message"]) if _is_error(document) else answer.body.decode(errors="replace")
