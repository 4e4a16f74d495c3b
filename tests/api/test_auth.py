"""Tokens without a server: what is accepted, until when, what renewal does, and what lies in the key file."""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
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
from model_server.config.load import load_config
from model_server.config.server import CommandLine, ServerConfig
from model_server.errors import InvalidKey, ModelNotFound, ServerError
from model_server.tokens import KeyFileError, Keys, Token, read_keys, remove_keys, write_keys

AUTHORIZATION = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
AUTHENTICATION = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)

# Written by TorchServe 0.12.
THEIR_FILE = """{
  "management": {
    "key": "Zy10r3YU",
    "expiration time": "2026-11-21T13:07:49.029561981Z"
  },
  "inference": {
    "key": "F0xN_nss",
    "expiration time": "2026-11-21T13:07:49.029553689Z"
  },
  "API": {
    "key": "pEw2tCaG"
  }
}"""


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


def test_keys_are_long_and_never_the_same(tmp_path: Path) -> None:
    both = [Tokens(tmp_path / name, timedelta(minutes=1)) for name in ("a", "b")]
    for made in both:
        made.publish()
    keys = {key(made, name) for made in both for name in ("management", "inference", "API")}
    assert len(keys) == 6
    assert all(len(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) >= 128 / 8 for text in keys)


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


# --- the file ---


def test_the_file_has_torchserves_form(tmp_path: Path) -> None:
    moment = datetime(2026, 11, 21, 13, 7, 49, 29561, tzinfo=UTC)
    inference, management = Token("F0xN_nss", moment), Token("Zy10r3YU", moment)
    keys: Keys = {"API": Token("pEw2tCaG"), "inference": inference, "management": management}
    write_keys(tmp_path / "k", keys)
    assert (tmp_path / "k").read_text() == THEIR_FILE.replace("029561981Z", "029561Z").replace("029553689Z", "029561Z")


def test_torchserves_own_file_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "k").write_text(THEIR_FILE)
    keys = read_keys(tmp_path / "k")
    assert keys["API"].header == "Authorization: Bearer pEw2tCaG"
    assert keys["management"].expires_at == datetime(2026, 11, 21, 13, 7, 49, 29561, tzinfo=UTC)


@pytest.fixture
def generous_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_nobody_else_can_ever_read_it(tokens: Tokens, generous_umask: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of an earlier run is replaced, its mode is not taken over, and the new one is private while it grows."""
    tokens.key_file.chmod(0o666)
    old, seen = tokens.key_file.stat().st_ino, []
    replace = Path.replace

    def looking(draft: Path, target: Path) -> Path:
        seen.append((draft.stat().st_mode & 0o777, draft.read_text()[:1], target.stat().st_ino))
        return replace(draft, target)

    monkeypatch.setattr(Path, "replace", looking)
    tokens.publish()
    assert seen == [(0o600, "{", old)]
    assert tokens.key_file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tokens.key_file.parent) == ["key_file.json"]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "key_file.json").symlink_to(tmp_path / "precious")
    Tokens(tmp_path / "key_file.json", timedelta(minutes=1)).publish()
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "key_file.json").is_symlink()


def test_a_disk_that_is_full_leaves_no_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(KeyFileError, match=r"key_file\.json cannot be written: No space left on device\."):
        Tokens(tmp_path / "key_file.json", timedelta(minutes=1)).publish()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refused)
    with pytest.raises(KeyFileError, match="cannot be written: Permission denied"):
        Tokens(tmp_path / "key_file.json", timedelta(minutes=1)).publish()


def test_withdrawn_with_its_server(tokens: Tokens) -> None:
    tokens.withdraw()
    tokens.withdraw()
    assert not tokens.key_file.exists()


def test_the_file_of_another_server_stays(tokens: Tokens) -> None:
    tokens.key_file.write_text(THEIR_FILE)
    tokens.withdraw()
    assert tokens.key_file.read_text() == THEIR_FILE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        "{}",
        '{"type": "service_account", "private_key": "x"}',
        THEIR_FILE.replace('"API"', '"Api"'),
        THEIR_FILE.replace("pEw2tCaG", "two lines\\r\\nX-Injected: 1"),
        THEIR_FILE.replace('"pEw2tCaG"', "1"),
        THEIR_FILE.replace("2026-11-21T13:07:49.029561981Z", "tomorrow"),
        "[" * 100_000,
    ],
)
def test_another_file_of_that_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "key_file.json").write_text(text)
    with pytest.raises(KeyFileError, match="is not the key file of a server"):
        read_keys(tmp_path / "key_file.json")
    remove_keys(tmp_path / "key_file.json")
    assert (tmp_path / "key_file.json").read_text() == text


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read: No such file or directory"):
        read_keys(tmp_path / "key_file.json")
    remove_keys(tmp_path / "key_file.json")


def test_no_key_in_a_traceback(tokens: Tokens) -> None:
    shown = repr(read_keys(tokens.key_file)) + repr(tokens)
    assert not any(key(tokens, name) in shown for name in ("management", "inference", "API"))


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


# --- configuration ---


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[ServerConfig, list[str]]]:
    def load(
        text: str = "", environ: dict[str, str] | None = None, flag: bool = False
    ) -> tuple[ServerConfig, list[str]]:
        (tmp_path / "c.properties").write_text(text)
        line = CommandLine(ts_config=Path("c.properties"), model_store=tmp_path, disable_token_auth=flag)
        config, warnings = load_config(line, environ or {}, tmp_path)
        return config, [str(warning) for warning in warnings]

    return load


ENV = "enable_envvars_config=true\n"


@pytest.mark.parametrize(
    ("text", "environment", "flag", "is_disabled"),
    [
        ("", None, False, False),
        ("disable_token_authorization=true", None, False, True),
        ("disable_token_authorization=false", None, True, True),
        ("", "true", False, False),
        ("", "false", True, True),
        (ENV, "true", False, True),
        (ENV, "false", True, False),
        (ENV + "disable_token_authorization=true", "false", False, False),
        (ENV + "disable_token_authorization=yes", None, False, False),
    ],
)
def test_who_turns_tokens_off(load: Any, text: str, environment: str | None, flag: bool, is_disabled: bool) -> None:
    environ = {} if environment is None else {"TS_DISABLE_TOKEN_AUTHORIZATION": environment}
    assert load(text, environ, flag)[0].disable_token_authorization is is_disabled


@pytest.mark.parametrize(
    ("text", "minutes"), [("0.25", 0.25), ("60", 60), ("1e3", 1000), ("1000000000", 1e9), ("", 60)]
)
def test_lifetime(load: Any, text: str, minutes: float) -> None:
    config, warnings = load(f"token_expiration_min={text}")
    assert (config.token_expiration_min, warnings) == (minutes, [])


def test_lifetime_of_the_environment_has_a_name_of_its_own(load: Any) -> None:
    assert load(ENV, {"TS_TOKEN_EXPIRATION_TIME_MIN": "5"})[0].token_expiration_min == 5


@pytest.mark.parametrize("text", ["an hour", "0", "-1", "nan", "inf", "-inf", "1e10", "1e999", "60 min"])
def test_lifetime_that_makes_no_sense(load: Any, text: str) -> None:
    config, (warning,) = load(f"token_expiration_min={text}")
    assert config.token_expiration_min == 60
    assert f"token_expiration_min={text} is not a number above 0 and up to 1e+09, using 60" in warning


@pytest.mark.parametrize("minutes", [1e-9, 1e9])
def test_the_shortest_and_the_longest_lifetime(tmp_path: Path, minutes: float) -> None:
    made = Tokens(tmp_path / "k", timedelta(minutes=minutes), Clock())
    made.publish()
    expires = read_keys(tmp_path / "k")["inference"].expires_at
    assert expires is not None and expires - NOON == timedelta(minutes=minutes)
