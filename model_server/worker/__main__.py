"""`python -m model_server.worker --fd N`: started by the frontend, never by hand.

The socket on descriptor N is the only tie to the frontend; its end is the worker's end. With `--template` the process
is no worker but forks them.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from model_server.logs import configure_worker_logging
from model_server.worker import lifeline
from model_server.worker.connection import Connection
from model_server.worker.loop import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="model_server.worker")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the socket to the frontend")
    parser.add_argument("--parent", type=int, required=True, help="process id of the frontend")
    parser.add_argument("--name", default="", help="for lists of processes")
    parser.add_argument("--template", action="store_true", help="fork workers as the frontend asks for them")
    parser.add_argument("--preload", default="", help="modules for a template to begin with, separated by commas")
    parser.add_argument("--archive", type=Path, action="append", default=[], help="what its first workers will serve")
    arguments = parser.parse_args()
    _close_others(arguments.fd)
    if not arguments.template:
        return work(arguments.fd, arguments.parent, arguments.name)
    preload = arguments.preload.split(",") if arguments.preload else []
    return be_template(arguments.fd, arguments.parent, preload, arguments.archive)


def _close_others(fd: int) -> None:
    """What the frontend's loop has left open in its child would keep somebody from seeing the end of something."""
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))


def work(fd: int, parent: int, name: str) -> int:
    """A worker's whole life."""
    lifeline.be_called(name)
    lifeline.die_with_parent(parent)
    lifeline.dump_stack_on(signal.SIGUSR1)
    # A terminal's Ctrl-C reaches the whole group; stopping is the frontend's decision, which finishes requests first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    configure_worker_logging()
    with socket.socket(fileno=fd) as sock:
        os.set_inheritable(fd, False)
        return serve(Connection(sock))


def be_template(fd: int, parent: int, preload: list[str], archives: list[Path]) -> int:
    """A template's whole life, and then, in its children, a worker's."""
    from model_server.worker.template import Template

    lifeline.die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=fd) as control:
        os.set_inheritable(fd, False)
        birth = Template(control, preload, archives).run()
    if birth is None:
        return 0
    if birth.hides:
        # The archive brings modules of names that the template has imported: only a process without them finds those.
        os.set_inheritable(birth.fd, True)
        arguments = ["--fd", str(birth.fd), "--parent", str(parent), "--name", birth.name]
        os.execv(sys.executable, [sys.executable, "-P", "-m", "model_server.worker", *arguments])
    return work(birth.fd, parent, birth.name)


if __name__ == "__main__":
    sys.exit(main())
