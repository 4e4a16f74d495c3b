"""What a handler string means: a built-in handler, or a file of the archive with an optional entry point."""

import sys

from handlers.builtin import BUILTIN_HANDLERS

BUILTIN_NAMES = frozenset(BUILTIN_HANDLERS)
LSP_HANDLERS = frozenset({"BaseHandler", "TorchScriptHandler"})
RUNTIMES = ("python", "python3", "LSP")


def is_builtin(handler: str, runtime: str) -> bool:
    """Whether the handler needs no file in the archive."""
    return handler in (LSP_HANDLERS if runtime == "LSP" else BUILTIN_NAMES)


def handler_file(handler: str, runtime: str) -> str:
    """The file that a handler string names: `dir/h`, `dir/h.py` and `dir/h:entry` all mean `dir/h.py`.

    LSP handlers are shared libraries of the platform. Call it for handlers that are not built in.
    """
    module = handler.partition(":")[0]
    if runtime == "LSP":
        return module + (".dylib" if sys.platform == "darwin" else ".so")
    return module if module.endswith(".py") else f"{module}.py"


def entry_point_problem(handler: str) -> str | None:
    """What is wrong with the `:entry` part of a handler string, as the end of a sentence; None when nothing is."""
    module, colon, entry_point = handler.partition(":")
    if not module or module.endswith("/"):
        return "names no file"
    if colon and not entry_point.isidentifier():
        return f"has the entry point {entry_point!r}, which is not the name of a function or class"
    return None
