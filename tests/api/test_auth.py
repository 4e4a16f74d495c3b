"""Tokens without a server: what is accepted, until when, what renewal does, and which key a path needs."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from model_server.api.auth import Tokens, api_of, is_open
from model_server.api.health import HealthApi
from model_server.api.inference import InferenceApi
from model_server.api.management import ManagementApi
from model_server.api.model_management import ModelManagement
from model_server.api.open_inference import OpenInferenceApi
from model_server.api.sites import REQUEST_ID, Route
from model_server.config.server import ServerConfig
from model_server.errors import InvalidKey, ModelNotFound, ServerError
from model_server.tokens import KeyFileError, read_keys

AUTHORIZATION = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
AUTHENTICATION = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


class Clock:
    """Time as a test says it is."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    made = Tokens(tmp_path / "key_file.json", timedelta(minutes=60), clock)
    made.publish()
    return made


def key(tokens: Tokens, name: str) -> str:
    text: str = json.loads(tokens.key_file.read_text())[name]["key"]
    return text


def accepts(tokens: Tokens, scope: Any, header: str | None) -> bool:
    try:
        tokens.check(scope, header)
    except InvalidKey as error:
        assert (error.status, error.type, error.message) == (400, "InvalidKeyException", AUTHORIZATION)
        return False
    return True


# --- what is accepted ---


@pytest.mark.parametrize("scope", ["management", "inference"])
def test_each_api_has_its_own_key(tokens: Tokens, scope: str) -> None:
    accepted = {
        name for name in ("management", "inference", "API") if accepts(tokens, scope, f"Bearer {key(tokens, name)}")
    }
    assert accepted == {scope}


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        ("Bearer KEY", True),
        ("Bearer \t KEY", True),
        ("bearer KEY", False),
        ("BearerKEY", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer KEY x", False),
        ("x Bearer KEY", False),
        ("Bearer KEY,", False),
        ("Bearer KEYx", False),
        ("Bearer xKEY", False),
        ("Bearer \u00a0KEY", False),
        ("Bearer\u2003KEY", False),
        ("Bearer é", False),
        ("Bearer \udcff\udc00", False),
        ("Bearer \ud800", False),
        ("Bearer KE\0Y", False),
        ("Basic KEY", False),
        ("KEY", False),
        ("", False),
        (None, False),
        ("Bearer " + "x" * 1_000_000, False),
        ("Bearer" + " " * 100_000, False),
        ("Bearer KEY" * 10_000, False),
    ],
)
def test_form_of_the_header(tokens: Tokens, header: str | None, is_accepted: bool) -> None:
    sent = header and header.replace("KEY", key(tokens, "inference"))
    assert accepts(tokens, "inference", sent) == is_accepted


def test_half_a_key_is_none(tokens: Tokens) -> None:
    whole = key(tokens, "inference")
    assert not any(accepts(tokens, "inference", f"Bearer {whole[:length]}") for length in range(len(whole)))


def test_comparison_takes_the_same_time_for_every_key(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(sent: bytes, right: bytes) -> bool:
        compared.append((sent, right))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert not accepts(tokens, "inference", "Bearer guess")
    assert compared == [(b"guess", key(tokens, "inference").encode())]


# --- expiry ---


def test_a_token_holds_until_its_moment(tokens: Tokens, clock: Clock) -> None:
    header = f"Bearer {key(tokens, 'management')}"
    clock.now = NOON + timedelta(minutes=60, microseconds=-1)
    assert accepts(tokens, "management", header)
    clock.now = NOON + timedelta(minutes=60)
    assert not accepts(tokens, "management", header)


def test_a_clock_set_back_expires_nothing(tokens: Tokens, clock: Clock) -> None:
    clock.now = NOON - timedelta(days=400)
    assert accepts(tokens, "management", f"Bearer {key(tokens, 'management')}")


def test_fractions_of_a_minute(tmp_path: Path, clock: Clock) -> None:
    """`token_expiration_min=0.25` expires after 15 s."""
    made = Tokens(tmp_path / "k", timedelta(minutes=0.25), clock)
    made.publish()
    assert json.loads((tmp_path / "k").read_text())["inference"]["expiration time"] == "2026-03-01T12:00:15.250000Z"


@pytest.mark.parametrize("minutes", [1e-9, 1e9])
def test_the_shortest_and_the_longest_lifetime(tmp_path: Path, minutes: float) -> None:
    made = Tokens(tmp_path / "k", timedelta(minutes=minutes), Clock())
    made.publish()
    expires = read_keys(tmp_path / "k")["inference"].expires_at
    assert expires is not None and expires - NOON == timedelta(minutes=minutes)


# --- renewal ---


@pytest.mark.parametrize(("scope", "other"), [("management", "inference"), ("inference", "management")])
def test_renewal_replaces_one_key(tokens: Tokens, clock: Clock, scope: Any, other: str) -> None:
    before = json.loads(tokens.key_file.read_text())
    clock.now = NOON + timedelta(hours=2)  # the key that renews does not expire
    tokens.renew(scope, f"Bearer {before['API']['key']}")
    after = json.loads(tokens.key_file.read_text())
    assert (after[other], after["API"]) == (before[other], before["API"])
    assert after[scope]["key"] != before[scope]["key"]
    assert after[scope]["expiration time"] == "2026-03-01T15:00:00.250000Z"
    assert accepts(tokens, scope, f"Bearer {after[scope]['key']}")
    clock.now = NOON  # the old one would still hold
    assert not accepts(tokens, scope, f"Bearer {before[scope]['key']}")


@pytest.mark.parametrize("scope", ["", "API", "Inference", "inference ", "inference\0", "management,inference"])
def test_unknown_scope(tokens: Tokens, scope: str) -> None:
    before = tokens.key_file.read_text()
    with pytest.raises(InvalidKey) as caught:
        tokens.renew(scope, f"Bearer {key(tokens, 'API')}")
    assert caught.value.message == AUTHENTICATION
    assert tokens.key_file.read_text() == before


@pytest.mark.parametrize("name", ["management", "inference"])
def test_only_the_api_key_renews(tokens: Tokens, name: str) -> None:
    with pytest.raises(InvalidKey, match="Token Authentication failed"):
        tokens.renew("inference", f"Bearer {key(tokens, name)}")


def test_a_file_that_cannot_be_written_leaves_the_old_key(tokens: Tokens) -> None:
    old, api = key(tokens, "inference"), key(tokens, "API")
    tokens.key_file.unlink()
    tokens.key_file.mkdir()
    with pytest.raises(KeyFileError, match="cannot be written: Is a directory") as caught:
        tokens.renew("inference", f"Bearer {api}")
    assert caught.value.status == 500
    assert accepts(tokens, "inference", f"Bearer {old}")
    assert [path.name for path in tokens.key_file.parent.iterdir()] == ["key_file.json"]


# --- which key a path needs ---


@pytest.mark.parametrize(
    ("path", "open_for"),
    [
        ("", {"inference", "management", None}),
        ("api-description", {"inference", "management", None}),
        ("live", {"inference", "management", None}),
        ("ready", {"inference", "management", None}),
        ("v2/health/live", {"inference", "management", None}),
        ("v2/health/ready", {"inference", "management", None}),
        ("ping", {"inference", None}),
        ("ping/any/thing", {"inference", None}),
        ("token", {"management", None}),
        ("token/x", set()),
        ("live/predict", set()),  # a model may have that name
        ("ready/1.0/predict", set()),
        ("v2/health", set()),
        ("v2/health/ready/x", set()),
        ("api-description/x", set()),
        ("Ping", set()),
        ("/ping", set()),
        ("models", set()),
        ("predictions/ping", set()),
    ],
)
def test_paths_that_need_no_token(path: str, open_for: set[Any]) -> None:
    segments = path.split("/") if path else []
    assert {scope for scope in ("inference", "management", None) if is_open(segments, scope)} == open_for


class NoModels:
    """A registry that has nothing; whoever asks it has taken the request."""

    startup_models = ("m",)

    def get(self, *_: object) -> None:
        raise ModelNotFound("no models")

    versions = set_default = scale = unregister = get

    def default_models(self) -> list[object]:
        return []

    def __iter__(self) -> Iterator[object]:
        return iter(())


def any_request(method: str) -> web.Request:
    request = make_mocked_request(method, "/")
    request._state[REQUEST_ID] = "1"
    request._read_bytes = b""
    return request


async def takes(route: Route, request: web.Request, segments: list[str]) -> bool:
    try:
        return await route(request, segments) is not None
    except ServerError:
        return True


WORDS = ["ping", "predictions", "explanations", "invocations", "models", "v1", "v2", "wfpredict", "workflows", "token"]
NAMES = ["m", "m:predict", "m:explain", "m:", ""]
VERBS = ["invoke", "predict", "infer", "explain", "all", "set-default", "versions"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_on_a_common_port_a_path_needs_the_key_of_the_api_that_answers(method: str) -> None:
    """Whatever the inference API answers needs its key, whatever gets past it needs management's: by trying it."""
    registry: Any = NoModels()
    predictions, protocol = InferenceApi(registry).route, OpenInferenceApi(HealthApi(registry)).route
    management = ManagementApi(registry, ModelManagement(registry), ServerConfig()).route
    request, words = any_request(method), [*WORDS, *NAMES, *VERBS]
    paths: list[tuple[str, ...]] = [path for length in (1, 2, 3) for path in itertools.product(words, repeat=length)]
    paths += [(a, b, c, d) for a in ("models", "v1", "v2", "m") for b, c, d in itertools.product(words, repeat=3)]

    async def wrong() -> list[str]:
        found = []
        for path in paths:
            segments = list(path)
            if segments[-1] == "" or is_open(segments, None):
                continue  # no request has it: empty segments at the end are dropped
            if await takes(predictions, request, segments) or await takes(protocol, request, segments):
                found += [] if api_of(segments) == "inference" else [f"{path}: inference's"]
            elif await takes(management, request, segments):
                found += [] if api_of(segments) == "management" else [f"{path}: management's"]
        return found

    assert asyncio.run(wrong()) == []
