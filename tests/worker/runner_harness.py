"""A runner of any mode in a thread, with a handler of the test's; the test plays the frontend."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handlers.context import Context
from model_server.wire.messages import (
    Chunk,
    ItemResult,
    Load,
    Message,
    Part,
    Predict,
    PredictItem,
    RequestKind,
    Result,
    ServingMode,
    Started,
)
from model_server.worker.calls import Worker
from model_server.worker.connection import Connection
from model_server.worker.entry_point import EntryPoint
from model_server.worker.inbox import Inbox
from model_server.worker.loop import runner_class
from model_server.worker.outbox import Outbox
from model_server.worker.recorder import Recorder
from model_server.worker.streams import Streams

DEADLINE_S = 20

Handle = Callable[[list[Any], Context], Any]


class RunnerInThread:
    """The state here is what was received and not asked for yet, and what ended the runner."""

    def __init__(self, handle: Handle, mode: ServingMode = "batch", **load: Any) -> None:
        self._sock, self._theirs = socket.socketpair()
        self._sock.settimeout(DEADLINE_S)
        self._frontend = Connection(self._sock)
        connection, self.streams, recorder = Connection(self._theirs), Streams(), Recorder("m")
        self._connection = connection
        self.context = Context("m", Path(), None, 8, None, "1.0", metrics=recorder.metrics)
        entry = EntryPoint(lambda context: None, handle, handle)
        inbox, outbox = Inbox(connection, self.streams), Outbox(connection, self.streams, recorder)
        load_message = Load("m", "", "", 8, mode=mode, **load)
        self.worker = Worker(entry, self.context, load_message, inbox, outbox, self.streams)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, args=(mode,), daemon=True)
        self._thread.start()

    def _serve(self, mode: ServingMode) -> None:
        try:
            runner_class(mode)(self.worker).serve()
        except BaseException as error:
            self.error = error

    def send(self, *messages: Message) -> None:
        for message in messages:
            self._frontend.send(message)

    def receive(self) -> Message:
        message = self._frontend.receive()
        assert message is not None, f"the worker is gone: {self.error!r}"
        return message

    def said(self) -> list[str]:
        """Everything up to and including the next result, in short: `started 1`, `1: part`, `1= answer`."""
        said: list[str] = []
        while not said or "=" not in said[-1]:
            said.append(in_short(self.receive()))
        return said

    def goes_away(self) -> None:
        """The frontend's end of the connection closes."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def ended(self) -> BaseException | None:
        """Waits for the end of the runner; returns what it raised."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        return self.error

    def close(self) -> None:
        try:
            self.goes_away()
        except OSError:
            pass  # the test has done so
        self.ended()
        self._connection.close()
        self._frontend.close()
        self._sock.close()
        self._theirs.close()


def batch(batch_id: int, *bodies: str, kind: RequestKind = "predict") -> Predict:
    """Requests with ids like `3.0`: batch and index."""
    return Predict(batch_id, kind, [item(f"{batch_id}.{index}", body) for index, body in enumerate(bodies)])


def item(id: str, body: str) -> PredictItem:
    return PredictItem(id, [], [Part("body", body.encode(), "text/plain")])


def in_short(message: Message) -> str:
    match message:
        case Started():
            return f"started {message.batch_id}"
        case Chunk(batch_id, index):
            return f"{batch_id}.{index}: {bytes(message.data).decode()}"
        case Result(batch_id, items):
            return f"{batch_id}= {' '.join(map(_answer_in_short, items))}"
    return repr(message)


def _answer_in_short(answer: ItemResult) -> str:
    return bytes(answer.body).decode() if answer.error is None else str(answer.status)
