"""Messages over a real socketpair, with blocking ends."""

import socket
import threading
from collections.abc import Iterator

import pytest

from model_server.wire.frames import WireError
from model_server.wire.messages import Message, Part, Predict, PredictItem, Started, Stop, encode
from model_server.worker.connection import Connection


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.settimeout(20)
        yield ours, theirs


def raw(message: Message) -> bytes:
    return b"".join(encode(message))


def batch(size_bytes: int) -> Predict:
    return Predict(1, "predict", [PredictItem("a", [], [Part("body", b"x" * size_bytes), Part("end", b"")])])


@pytest.mark.parametrize("size_bytes", [0, 65_000, 66_000, 3_000_000])
def test_messages_of_every_size_arrive(ends: tuple[socket.socket, socket.socket], size_bytes: int) -> None:
    ours, theirs = ends
    receiver = Connection(theirs)
    sender = threading.Thread(target=Connection(ours).send, args=(batch(size_bytes),))
    sender.start()
    assert receiver.receive() == batch(size_bytes)
    sender.join()


def test_messages_that_arrive_together_are_told_apart(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.sendall(raw(Started(1)) + raw(Started(2)) + raw(Stop()))
    receiver = Connection(theirs)
    assert [receiver.receive() for _ in range(3)] == [Started(1), Started(2), Stop()]


@pytest.mark.parametrize("sent", [0, 1, 17, 18, len(raw(Started(1))) - 1])
def test_end_of_the_connection_is_none_wherever_it_comes(ends: tuple[socket.socket, socket.socket], sent: int) -> None:
    ours, theirs = ends
    ours.sendall(raw(Started(1))[:sent])
    ours.shutdown(socket.SHUT_WR)
    receiver = Connection(theirs)
    assert receiver.receive() is None
    assert receiver.receive() is None


@pytest.mark.parametrize("missing", [1, 70_000])
def test_an_end_within_a_large_blob_is_none(ends: tuple[socket.socket, socket.socket], missing: int) -> None:
    ours, theirs = ends
    ours.sendall(raw(batch(100_000))[:-missing])
    ours.shutdown(socket.SHUT_WR)
    assert Connection(theirs).receive() is None


def test_garbage_is_a_wire_error(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(WireError, match="0x47"):
        Connection(theirs).receive()


def test_sending_to_nobody_is_an_os_error(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(OSError):
        Connection(ours).send(Stop())
