"""What the frontend sends, in order; what it says about running requests takes effect at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from model_server.wire.frames import WireError
from model_server.wire.messages import Cancel, Credit, Message, Predict
from model_server.worker.connection import Connection
from model_server.worker.streams import Streams

Deliver = Callable[[Message | None], object]


class Inbox:
    """Reads on the calling thread until `listen` gives the reading to a thread of its own.

    A model that neither streams nor steps needs no second thread, and is faster without. The state here is whether
    `next` reads at the moment, who gets the messages once a thread is wanted, and the queue that the thread fills.
    """

    def __init__(self, connection: Connection, streams: Streams) -> None:
        self._connection = connection
        self._streams = streams
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._deliver: Deliver | None = None
        self._is_reading = False
        self._changing = threading.Lock()

    def listen(self, deliver: Deliver | None = None) -> None:
        """From now on messages arrive while a handler runs. Called again, it does nothing.

        A thread that a handler has left behind may be the one that calls, while `next` reads: two threads must not
        read the same socket, so the reading changes hands after the message that is being waited for.

        Args:
            deliver: is given every message on the reading thread, and None at the end; by default they wait for `next`.
        """
        with self._changing:
            if self._deliver is not None:
                return
            chosen = deliver or self._messages.put
            if not self._is_reading:
                self._start_reader(chosen)
            self._deliver = chosen

    def next(self) -> Message | None:
        """The next message, however long it takes to come; None at the end."""
        with self._changing:
            self._is_reading = self._deliver is None
        if not self._is_reading:
            return self._messages.get()
        try:
            return self._receive()
        finally:
            with self._changing:
                self._is_reading = False
                if self._deliver is not None:
                    self._start_reader(self._deliver)

    def waiting(self) -> Iterator[Message | None]:
        """The messages that are there already; needs `listen`."""
        while not self._messages.empty():
            yield self._messages.get()

    def _start_reader(self, deliver: Deliver) -> None:
        threading.Thread(target=self._read, args=(deliver,), name="inbox", daemon=True).start()

    def _read(self, deliver: Deliver) -> None:
        try:
            while (message := self._receive()) is not None:
                deliver(message)
        except (OSError, WireError, ValueError):  # ValueError: closed while it was read
            pass  # the end, as far as this worker is concerned
        finally:
            self._streams.end()
            deliver(None)

    def _receive(self) -> Message | None:
        message = self._connection.receive()
        match message:
            case Predict():
                self._streams.open(message.batch_id)
            case Cancel():
                self._streams.cancel(message)
            case Credit():
                self._streams.credit(message)
        return message
