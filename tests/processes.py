"""What has become of processes."""

import psutil


def is_gone(pid: int) -> bool:
    """A zombie is gone, too: whose child it has become may not wait for it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
