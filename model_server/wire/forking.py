"""What frontend and template say to each other: one JSON document per line, on a stream socket of their own.

With the first byte of a request travel three descriptors: the worker's socket, its stdout and its stderr. Requests are
answered in order; nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from model_server.wire.frames import WireError

# Worker's socket, stdout, stderr.
DESCRIPTORS = 3


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """A worker is wanted.

    Attributes:
        name: what it is called.
        environment: all of it.
        model_dir: the unpacked archive.
        handler: as the archive names it; with the files in `model_dir` it tells what the worker is going to import.
    """

    name: str
    environment: Mapping[str, str]
    model_dir: str
    handler: str


@dataclass(frozen=True, slots=True)
class ForkReply:
    """What became of a request.

    Attributes:
        pid: of the worker, which is the frontend's child by now; None when there is none.
        error: why, for the log.
        preloaded: the modules that the template has imported for workers so far.
    """

    pid: int | None
    error: str = ""
    preloaded: tuple[str, ...] = ()


def encode_line(message: ForkRequest | ForkReply) -> bytes:
    return json.dumps(asdict(message)).encode() + b"\n"


def decode_request(line: bytes) -> ForkRequest:
    """Raises WireError."""
    fields = _fields(line)
    try:
        return ForkRequest(**fields)
    except TypeError as error:
        raise WireError(f"no request for a worker: {error}") from error


def decode_reply(line: bytes) -> ForkReply:
    """Raises WireError."""
    fields = _fields(line)
    try:
        return ForkReply(fields["pid"], fields["error"], tuple(fields["preloaded"]))
    except (KeyError, TypeError) as error:
        raise WireError(f"no answer of a template: {error}") from error


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise WireError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise WireError(f"not an object: {type(fields).__name__}")
    return fields
