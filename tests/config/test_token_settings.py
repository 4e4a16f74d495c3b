"""Who turns tokens off, and how long they hold: keys, flags and environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_server.config.load import load_config
from model_server.config.server import CommandLine, ServerConfig


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
