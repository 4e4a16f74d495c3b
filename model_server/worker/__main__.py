"""`python -m model_server.worker --fd N`: started by the frontend, never by hand.

The socket on descriptor N is the only tie to the frontend; its end is the worker's end.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys

from model_server.logs import configure_worker_logging
from model_server.worker import lifeline
from model_server.worker.connection import Connection
from model_server.worker.loop import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="model_server.worker")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the socket to the frontend")
    parser.add_argument("--parent", type=int, required=True, help="process id of the frontend")
    arguments = parser.parse_args()

    lifeline.die_with_parent(arguments.parent)
    lifeline.dump_stack_on(signal.SIGUSR1)
    # A terminal's Ctrl-C reaches the whole group; stopping is the frontend's decision, which finishes requests first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    configure_worker_logging()
    with socket.socket(fileno=arguments.fd) as sock:
        os.set_inheritable(arguments.fd, False)
        return serve(Connection(sock))


if __name__ == "__main__":
    sys.exit(main())
