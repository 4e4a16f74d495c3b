"""What lies in the key file, who can read it, and what happens to other files of that name."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_server.api.auth import Tokens
from model_server.tokens import KeyFileError, Keys, Token, read_keys, remove_keys, write_keys

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


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    made = Tokens(tmp_path / "key_file.json", timedelta(minutes=60))
    made.publish()
    return made


def key(tokens: Tokens, name: str) -> str:
    text: str = json.loads(tokens.key_file.read_text())[name]["key"]
    return text


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


def test_keys_are_long_and_never_the_same(tmp_path: Path) -> None:
    both = [Tokens(tmp_path / name, timedelta(minutes=1)) for name in ("a", "b")]
    for made in both:
        made.publish()
    keys = {key(made, name) for made in both for name in ("management", "inference", "API")}
    assert len(keys) == 6
    assert all(len(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) >= 128 / 8 for text in keys)
