"""A worker program without handlers: it speaks the wire protocol and does what requests and its script tell it.

Run in place of `python -m model_server.worker`. FAKE_WORKER is a folder: `loads` there holds one word per start (ok,
fails, hangs, exits, killed, interrupted, garbage), the last one for all starts that follow; `starts` gets a line each.
The body of a request is an order: kill, exit, hang, garbage, short, child, or wait (until a file `go` is there);
anything else is answered in upper case.
"""

import argparse
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from model_server.wire.messages import (
    Capabilities,
    Failure,
    ItemResult,
    Load,
    Loaded,
    Predict,
    Result,
    Stop,
)
from model_server.worker.connection import Connection


class FakeWorker:
    def __init__(self, sock: socket.socket, folder: Path) -> None:
        self.sock = sock
        self.folder = folder
        self.connection = Connection(sock)

    def run(self) -> int:
        assert isinstance(self.connection.receive(), Load)
        if not self.load(self.next_load()):
            return 3
        while (message := self.connection.receive()) is not None:
            if isinstance(message, Stop):
                if (self.folder / "ignore_stop").exists():
                    hang_for_ever()
                return 0
            assert isinstance(message, Predict)
            self.answer(message)
        return 0

    def next_load(self) -> str:
        with (self.folder / "starts").open("a+") as starts:
            starts.seek(0)
            number = len(starts.readlines())
            starts.write(f"{os.getpid()}\n")
        words = (self.folder / "loads").read_text().split()
        return words[min(number, len(words) - 1)]

    def load(self, word: str) -> bool:
        match word:
            case "fails":
                self.connection.send(Failure(507, "RuntimeError: no room on the device", "Traceback …"))
                return False
            case "interrupted":
                raise KeyboardInterrupt
            case "ok":
                self.connection.send(Loaded(Capabilities(length_batching=True)))
            case _:
                self.obey(word)
        return True

    def answer(self, batch: Predict) -> None:
        words = [bytes(item.parts[0].data).decode() for item in batch.items]
        for word in words:
            self.obey(word)
        items = [ItemResult(item.id, body=word.upper().encode()) for item, word in zip(batch.items, words, strict=True)]
        self.connection.send(Result(batch.batch_id, items[1:] if "short" in words else items))

    def obey(self, word: str) -> None:
        match word:
            case "kill" | "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit" | "exits":
                os._exit(9)
            case "hang" | "hangs":
                hang_for_ever()
            case "garbage":
                self.sock.sendall(b"Traceback (most recent call last):\n")
            case "child":
                subprocess.Popen(["sleep", "600"])
            case "wait":
                (self.folder / "waiting").touch()
                while not (self.folder / "go").exists():
                    time.sleep(0.005)


def hang_for_ever() -> None:
    while True:
        signal.pause()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-P", action="store_true")
    parser.add_argument("-m")
    parser.add_argument("--fd", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--name")
    arguments = parser.parse_args()
    assert (arguments.P, arguments.m, arguments.parent) == (True, "model_server.worker", os.getppid())
    faulthandler.register(signal.SIGUSR1, chain=False)
    print("printed by the worker", flush=True)
    with socket.socket(fileno=arguments.fd) as sock:
        return FakeWorker(sock, Path(os.environ["FAKE_WORKER"])).run()


if __name__ == "__main__":
    sys.exit(main())
