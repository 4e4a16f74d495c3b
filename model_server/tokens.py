"""The key file: the tokens that clients of a running server have to send.

Name, place and JSON are TorchServe's, so that scripts which read it keep working.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from model_server.errors import ServerError

# Lies in the folder the server was started in.
KEY_FILE = "key_file.json"

Scope = Literal["management", "inference"]
KeyName = Literal[Scope, "API"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
KEY_NAMES: tuple[KeyName, ...] = get_args(KeyName)

_KEY_BYTES = 32
_KEY = re.compile("[A-Za-z0-9_-]+")


class KeyFileError(ServerError):
    """The key file cannot be written or read; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Token:
    """`expires_at`: the first moment at which it is refused; None: never. No `repr` shows the key."""

    key: str = field(repr=False)
    expires_at: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at

    @property
    def header(self) -> str:
        """The line that a request has to carry."""
        return f"Authorization: Bearer {self.key}"


Keys = Mapping[KeyName, Token]


def new_token(expires_at: datetime | None = None) -> Token:
    """One with 256 random bits."""
    return Token(secrets.token_urlsafe(_KEY_BYTES), expires_at)


def write_keys(path: Path, keys: Keys) -> None:
    """In one step and readable by this user only, from the beginning. A file or link at that place is replaced.

    Raises:
        KeyFileError: the folder cannot be written to.
    """
    text = json.dumps({name: _entry(keys[name]) for name in KEY_NAMES}, indent=2)
    try:
        _replace(path, text)
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be written: {error.strerror}.") from error


def read_keys(path: Path) -> Keys:
    """The keys that a server has written.

    Raises:
        KeyFileError: there is no such file, or it is another kind of file.
    """
    try:
        document = json.loads(path.read_bytes())
        return {name: _token(document[name]) for name in KEY_NAMES}
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, RecursionError):
        raise KeyFileError(f"{path} is not the key file of a server.") from None


def remove_keys(path: Path) -> None:
    """Removes a key file; a file of another kind that has its name stays."""
    try:
        read_keys(path)
        path.unlink(missing_ok=True)
    except (KeyFileError, OSError):
        pass


def _replace(path: Path, text: str) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # has mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _entry(token: Token) -> dict[str, str]:
    if token.expires_at is None:
        return {"key": token.key}
    return {"key": token.key, "expiration time": token.expires_at.isoformat().replace("+00:00", "Z")}


def _token(entry: Any) -> Token:
    """Raises KeyError, TypeError or ValueError for what no server writes."""
    if not _KEY.fullmatch(entry["key"]):
        raise ValueError("no key")
    expires = entry.get("expiration time")
    return Token(entry["key"], None if expires is None else datetime.fromisoformat(expires).astimezone(UTC))
