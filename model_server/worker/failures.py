"""What a handler's exceptions say, in texts that can be sent and logged: of any length, or of none, they come."""

from __future__ import annotations

import traceback
from pathlib import Path

from handlers.errors import ModelLoadError
from model_server.wire.messages import Failure

# No request may fill the disk, and no text the connection.
_MOST_CHARACTERS = 16_000


def text_of(value: object) -> str:
    """`str` of something that a handler made, which may have no text."""
    try:
        return str(value)
    except BaseException:
        return f"a {type(value).__name__} without a text"


def shortened(text: str) -> str:
    more = len(text) - _MOST_CHARACTERS
    return f"{text[:_MOST_CHARACTERS]}… ({more} more characters)" if more > 0 else text


def traceback_of(error: BaseException) -> str:
    """The traceback, unless the exception itself prevents it."""
    try:
        return shortened("".join(traceback.format_exception(error)))
    except BaseException:
        return f"{type(error).__name__}: {text_of(error)}\n"


def is_out_of_memory(error: BaseException) -> bool:
    """Memory of the host or of a device.

    Any text with CUDA in it counts as well: TorchServe's clients are told 507 in that case.
    """
    return isinstance(error, MemoryError) or (isinstance(error, Exception) and "CUDA" in text_of(error))


def load_failure(error: BaseException) -> Failure:
    """Why the model could not be loaded: the cause and its place for whoever registered it, and the traceback."""
    message = f"{type(error).__name__}: {text_of(error)}".strip()
    # Our own errors name what is wrong; the line of ours that has found it says nothing more.
    place = "" if isinstance(error, ModelLoadError | SyntaxError) else _place(error)
    return Failure(507 if is_out_of_memory(error) else 500, shortened(message) + place, traceback_of(error))


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
