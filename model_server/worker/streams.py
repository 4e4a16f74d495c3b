"""What the frontend says about requests while their handler runs: who went away, and who took how much.

Shared between the thread that runs the handler and the one that reads the socket.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from model_server.wire.messages import STREAM_WINDOW_BYTES, Cancel, Credit


@dataclass(slots=True)
class _Stream:
    """One member of a batch.

    Attributes:
        is_cancelled: nobody waits for more of the answer.
        untaken_bytes: sent, and not taken by the client yet.
    """

    has_begun: bool = False
    is_cancelled: bool = False
    untaken_bytes: int = 0


class Streams:
    """The members of the batches that the worker has.

    The state here is one entry per member that streams or was cancelled; `open` and `close` bound its life. What is
    said about a batch that is not open comes too late and means nothing.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches: dict[int, dict[int, _Stream]] = {}
        self._has_ended = False

    def open(self, batch_id: int) -> None:
        self._batches[batch_id] = {}

    def close(self, batch_id: int) -> None:
        """Also lets go of those of the handler's threads that still wait for a client of this batch."""
        if members := self._batches.pop(batch_id, None):
            with self._changed:
                for stream in tuple(members.values()):
                    stream.is_cancelled = True
                self._changed.notify_all()

    def is_open(self, batch_id: int) -> bool:
        return batch_id in self._batches

    def has_begun(self, batch_id: int, index: int) -> bool:
        """True when a part of this answer was sent."""
        return self._member(batch_id, index).has_begun

    def is_cancelled(self, batch_id: int, index: int) -> bool:
        """True when nobody waits for this answer (any more): its client is gone, or it has its answer."""
        return self._has_ended or not self.is_open(batch_id) or self._member(batch_id, index).is_cancelled

    def begin(self, batch_id: int, index: int, size_bytes: int, *, wait: bool) -> bool:
        """Counts a part that is about to be sent; with `wait`, blocks until the client has room for it.

        False when nobody waits for the part.
        """
        stream = self._member(batch_id, index)
        with self._changed:
            while wait and stream.untaken_bytes >= STREAM_WINDOW_BYTES and not (stream.is_cancelled or self._has_ended):
                self._changed.wait()
            if stream.is_cancelled or self._has_ended:
                return False
            stream.has_begun = True
            stream.untaken_bytes += size_bytes
            return True

    # --- called by whoever reads the socket ---

    def cancel(self, message: Cancel) -> None:
        with self._changed:
            self._member(message.batch_id, message.index).is_cancelled = True
            self._changed.notify_all()

    def credit(self, message: Credit) -> None:
        with self._changed:
            self._member(message.batch_id, message.index).untaken_bytes -= message.size_bytes
            self._changed.notify_all()

    def end(self) -> None:
        """The frontend is gone, and with it every client."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _member(self, batch_id: int, index: int) -> _Stream:
        members = self._batches.get(batch_id)
        return _Stream() if members is None else members.setdefault(index, _Stream())
