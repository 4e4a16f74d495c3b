"""File descriptors: every connection and every worker takes some, and the usual soft limit is no great number."""

import contextlib
import resource

# Where there is no hard limit: enough, and few enough for programs that look at every descriptor there could be.
_MOST = 1 << 20


def raise_descriptor_limit() -> None:
    """Raises this process's soft limit to the hard one; what it starts from then on has it, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has a lower limit that it does not tell.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
