"""What ties a worker to its frontend besides the socket, which a busy handler does not read."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h


def die_with_parent(parent_pid: int) -> None:
    """Arranges that this process is killed when the frontend is gone, whatever the handler is doing then."""
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    else:
        threading.Thread(target=_exit_without, args=(parent_pid,), daemon=True).start()
    # The parent may have died before the signal was armed.
    if os.getppid() != parent_pid:
        os._exit(1)


def be_called(name: str) -> None:
    """Gives the process a name that `ps` and `top` show, as far as they do: Linux keeps 15 bytes of it."""
    if sys.platform == "linux" and name:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _exit_without(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(0.5)
    os._exit(1)


def dump_stack_on(signum: signal.Signals) -> None:
    """On `signum` every thread's Python stack is written to stderr, even while C code holds the interpreter."""
    faulthandler.enable()
    faulthandler.register(signum, all_threads=True, chain=False)
