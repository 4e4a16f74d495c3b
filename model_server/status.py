"""What a starting server tells the launcher: one JSON object per line on a pipe. The pipe's end is the start's end."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields

_TICK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEvent:
    """One line of the status pipe.

    `event` is `listening` (with inference, management, metrics: URLs; grpc_inference, grpc_management: host:port, where
    gRPC is installed; key_file: its path, where requests need tokens), `model` (name, version, state, takes_text,
    and reason where it failed), `started` (the start-up models are registered), `ready` (each of them is loaded or has
    failed) or `error` (message).
    """

    event: str
    inference: str | None = None
    management: str | None = None
    metrics: str | None = None
    grpc_inference: str | None = None
    grpc_management: str | None = None
    key_file: str | None = None
    name: str | None = None
    version: str | None = None
    state: str | None = None
    takes_text: bool | None = None
    reason: str | None = None
    message: str | None = None


_EVENT_FIELDS = [event_field.name for event_field in fields(StatusEvent)]


def write_event(status_fd: int, event: StatusEvent) -> None:
    """Tell the launcher, if it is still there."""
    line = json.dumps({name: value for name, value in asdict(event).items() if value is not None}) + "\n"
    with suppress(BrokenPipeError):
        os.write(status_fd, line.encode())


class StatusReport:
    """Tells the launcher, if there is one, how the start goes."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def send(self, event: StatusEvent) -> None:
        if self._fd is not None:
            write_event(self._fd, event)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read_events(status_fd: int, tick_s: float = _TICK_S) -> Iterator[StatusEvent | None]:
    """Events as they come, None whenever `tick_s` passes without one; ends with the pipe."""
    rest = b""
    while True:
        if not select.select([status_fd], [], [], tick_s)[0]:
            yield None
            continue
        received = os.read(status_fd, 65536)
        if not received:
            return
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            document = json.loads(line)
            yield StatusEvent(**{name: document.get(name) for name in _EVENT_FIELDS})
