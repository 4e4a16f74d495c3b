"""What a worker sends: answers, parts of answers, and what handlers recorded meanwhile."""

from __future__ import annotations

import threading

from model_server.wire.messages import Chunk, ItemResult, Message, Result
from model_server.worker.connection import Connection
from model_server.worker.recorder import Recorder
from model_server.worker.streams import Streams


class Outbox:
    """Everything a worker says. A lock keeps frames whole: handlers may stream from threads of their own."""

    def __init__(self, connection: Connection, streams: Streams, recorder: Recorder) -> None:
        self._connection = connection
        self._streams = streams
        self._recorder = recorder
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Raises OSError when the frontend is gone."""
        with self._lock:
            self._connection.send(message)

    def part(self, chunk: Chunk) -> None:
        """Sends a part of an answer, unless its batch was answered meanwhile on another thread."""
        with self._lock:
            if self._streams.is_open(chunk.batch_id):
                self._connection.send(chunk)

    def answer(self, batch_id: int, items: list[ItemResult], service_s: float | None = None) -> None:
        """Ends a batch: its answers, and the metrics recorded since the last one."""
        result = Result(batch_id, items, service_s, self._recorder.take())
        with self._lock:
            self._streams.close(batch_id)
            self._connection.send(result)
