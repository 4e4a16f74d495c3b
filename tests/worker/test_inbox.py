"""Messages on the calling thread, and on a thread of their own from the moment they matter while a handler runs."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pytest
from runner_harness import DEADLINE_S, batch

from model_server.wire.messages import Cancel, Credit, Message, Predict, Stop
from model_server.worker.connection import Connection
from model_server.worker.inbox import Inbox
from model_server.worker.streams import Streams


@dataclass
class Line:
    """An inbox, and the frontend's end of its connection."""

    sock: socket.socket
    frontend: Connection
    inbox: Inbox
    streams: Streams


@pytest.fixture
def line() -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(DEADLINE_S)
    connection, streams = Connection(theirs), Streams()
    yield Line(ours, Connection(ours), Inbox(connection, streams), streams)
    ours.close()
    connection.close()
    theirs.close()


def send(line: Line, *messages: Message) -> None:
    for message in messages:
        line.frontend.send(message)


def next_batch(line: Line) -> int:
    """Passes over what is not a batch."""
    while not isinstance(message := line.inbox.next(), Predict):
        assert message is not None
    return message.batch_id


@pytest.mark.parametrize("listens", [False, True])
def test_messages_come_in_order_and_then_the_end(listens: bool, line: Line) -> None:
    messages = [batch(1, "a"), Cancel(1, 0), batch(2, "b"), Stop()]
    send(line, *messages)
    line.sock.shutdown(socket.SHUT_WR)
    if listens:
        line.inbox.listen()
    received = [line.inbox.next() for _ in range(5)]
    assert list(map(type, received)) == [Predict, Cancel, Predict, Stop, type(None)]
    assert (received[0], received[2]) == (messages[0], messages[2])


@pytest.mark.parametrize("listens", [False, True])
def test_what_is_said_about_a_batch_has_taken_effect_when_the_next_one_comes(listens: bool, line: Line) -> None:
    if listens:
        line.inbox.listen()
    send(line, batch(1, "a", "b"))
    assert next_batch(line) == 1
    assert not line.streams.is_cancelled(1, 1)
    line.streams.begin(1, 0, 100, wait=False)
    send(line, Cancel(1, 1), batch(2, "c"))
    assert next_batch(line) == 2
    assert [line.streams.is_cancelled(1, index) for index in (0, 1)] == [False, True]


def test_credit_reaches_the_member_it_is_for(line: Line) -> None:
    send(line, batch(1, "a", "b"), Credit(1, 1, 7), batch(2, ""))
    assert [next_batch(line), next_batch(line)] == [1, 2]
    assert [line.streams._member(1, index).untaken_bytes for index in (0, 1)] == [0, -7]


def test_a_message_read_ahead_waits_for_its_turn(line: Line) -> None:
    """`listen` may come after messages were received on the calling thread, and twice."""
    send(line, batch(1, "a"))
    assert next_batch(line) == 1
    line.inbox.listen()
    line.inbox.listen()
    send(line, batch(2, "b"), batch(3, "c"))
    assert [next_batch(line), next_batch(line)] == [2, 3]
    assert list(line.inbox.waiting()) == []


def test_waiting_gives_what_is_there_and_does_not_wait(line: Line) -> None:
    line.inbox.listen()
    send(line, batch(1, "a"), batch(2, "b"), batch(3, "c"))
    assert next_batch(line) == 1
    while line.inbox._messages is None or line.inbox._messages.qsize() < 2:
        assert line.sock.fileno() > 0
    assert [message.batch_id for message in line.inbox.waiting() if isinstance(message, Predict)] == [2, 3]


def test_whoever_listens_can_have_every_message_at_once(line: Line) -> None:
    delivered: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    line.inbox.listen(delivered.put)
    send(line, batch(1, "a"), Cancel(1, 0))
    assert isinstance(delivered.get(timeout=DEADLINE_S), Predict)
    assert delivered.get(timeout=DEADLINE_S) == Cancel(1, 0)
    line.sock.shutdown(socket.SHUT_WR)
    assert delivered.get(timeout=DEADLINE_S) is None


@pytest.mark.parametrize("last_words", [b"", b"Traceback (most recent call last):\n"], ids=["gone", "garbage"])
def test_the_end_of_the_frontend_is_the_end_of_every_client(last_words: bytes, line: Line) -> None:
    line.inbox.listen()
    send(line, batch(1, "a"))
    assert next_batch(line) == 1
    assert not line.streams.is_cancelled(1, 0)
    line.sock.sendall(last_words)
    line.sock.shutdown(socket.SHUT_WR)
    assert line.inbox.next() is None
    assert line.streams.is_cancelled(1, 0)


class OneReader:
    """A connection that notes whether two threads ever read it at once, and gives out a batch when it may."""

    def __init__(self) -> None:
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        self.readers, self.most_readers = 0, 0
        self.messages: list[Message | None] = [None, batch(2, ""), batch(1, "")]

    def receive(self) -> Message | None:
        self.readers += 1
        self.most_readers = max(self.most_readers, self.readers)
        self.entered.set()
        assert self.may_go_on.wait(DEADLINE_S)
        self.readers -= 1
        return self.messages.pop()


def test_two_threads_never_read_at_once() -> None:
    """A thread that a handler has left behind wants to stream while the main thread waits for the next batch."""
    connection = OneReader()
    inbox = Inbox(cast(Connection, connection), Streams())
    received: list[Message | None] = []
    main = threading.Thread(target=lambda: received.append(inbox.next()), daemon=True)
    main.start()
    assert connection.entered.wait(DEADLINE_S)
    left_behind = threading.Thread(target=inbox.listen, daemon=True)
    left_behind.start()
    left_behind.join(0.05)  # it must not come back; were it to, its reader would be the second one
    connection.may_go_on.set()
    for thread in (main, left_behind):
        thread.join(DEADLINE_S)
    assert [*received, inbox.next(), inbox.next()] == [batch(1, ""), batch(2, ""), None]
    assert connection.most_readers == 1


def test_a_plain_model_has_no_second_thread(line: Line) -> None:
    before = threading.active_count()
    send(line, batch(1, "a"))
    assert next_batch(line) == 1
    assert threading.active_count() == before
    line.inbox.listen()
    assert threading.active_count() == before + 1
