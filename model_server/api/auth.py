"""Token authorization: which requests need which key, and its renewal. Rules and texts are TorchServe's."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from model_server.api.paths import query_values
from model_server.api.sites import Guard
from model_server.errors import InvalidKey
from model_server.tokens import SCOPES, KeyFileError, KeyName, Scope, Token, new_token, read_keys, write_keys

_BEARER = re.compile(rb"Bearer\s+(\S+)")


class Tokens:
    """The keys of one server and the file that tells them.

    The state here is `_keys`; only `renew` changes it, after the file, without an await in between: what the file says
    holds.
    """

    def __init__(
        self, key_file: Path, lifetime: timedelta, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.key_file = key_file
        self._lifetime = lifetime
        self._now = now
        self._keys: dict[KeyName, Token] = {scope: self._issue() for scope in SCOPES} | {"API": new_token()}

    def publish(self) -> None:
        """Writes the key file. Raises `KeyFileError`."""
        write_keys(self.key_file, self._keys)

    def withdraw(self) -> None:
        """Removes the key file, unless another server has put its own in that place."""
        try:
            if read_keys(self.key_file)["API"] == self._keys["API"]:
                self.key_file.unlink()
        except (KeyFileError, OSError):
            pass

    def check(self, scope: Scope, authorization: str | None) -> None:
        """`authorization`: value of the header or metadata entry of that name. Raises `InvalidKey`."""
        if not self._accepts(scope, authorization):
            raise InvalidKey("Authorization")

    def renew(self, scope: str, authorization: str | None) -> None:
        """Puts a new key in the place of one, by order of whoever has the API key.

        Raises:
            InvalidKey: the API key or the scope is wrong.
            KeyFileError: the old key still holds.
        """
        if scope not in SCOPES or not self._accepts("API", authorization):
            raise InvalidKey("Authentication")
        keys = self._keys | {scope: self._issue()}
        write_keys(self.key_file, keys)
        self._keys = keys

    async def route(self, request: web.Request, segments: list[str]) -> web.StreamResponse | None:
        """`/token?type=SCOPE` of the management API, with any method."""
        if segments != ["token"]:
            return None
        query = query_values(request.rel_url.raw_query_string)
        scope = next((value.decode(errors="replace") for name, value in query if name == "type"), "")
        self.renew(scope, request.headers.get("Authorization"))
        return web.Response(body=b"\n", headers={"content-type": "application/json"})

    def guard(self, scope: Scope | None) -> Guard:
        """For a listener of one API; None: of both, where the path says whose it is."""

        def check(request: web.Request, segments: list[str]) -> None:
            if not is_open(segments, scope):
                self.check(scope or api_of(segments), request.headers.get("Authorization"))

        return check

    def _issue(self) -> Token:
        return new_token(self._now() + self._lifetime)

    def _accepts(self, name: KeyName, authorization: str | None) -> bool:
        token = self._keys[name]
        sent = _BEARER.fullmatch((authorization or "").encode(errors="backslashreplace"))
        # How long this takes says nothing about how much of a key was right.
        is_right = hmac.compare_digest(sent[1] if sent else b"", token.key.encode())
        return is_right and not token.is_expired(self._now())


def is_open(segments: list[str], scope: Scope | None) -> bool:
    """Whether a path of this API needs no token: its description, and what probes ask."""
    match segments:
        case [] | ["api-description"] | ["live"] | ["ready"] | ["v2", "health", "live" | "ready"]:
            return True
        case ["ping", *_]:
            return scope != "management"
        case ["token"]:  # asks for a key of its own
            return scope != "inference"
    return False


def api_of(segments: list[str]) -> Scope:
    """Whose path this is on a listener for both: what the inference API does not take is management's."""
    match segments:
        case ["models", _, "invoke"] | [_, "predict"] | [_, _, "predict"]:
            return "inference"
        case ["v1", "models", name] if not name.endswith((":predict", ":explain")):
            return "management"
        case ["predictions" | "explanations" | "invocations" | "v1" | "v2" | "wfpredict", *_]:
            return "inference"
    return "management"
