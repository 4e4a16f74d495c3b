"""The forms of a line, against lines that TorchServe's log4j2 configuration has written."""

from __future__ import annotations

import json
import logging
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from model_server.logs.lines import Line, TextForm, json_form


@pytest.fixture(params=["UTC", "Asia/Kolkata", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ZoneInfo:
    """The zone this process is in."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    request.addfinalizer(time.tzset)
    request.addfinalizer(monkeypatch.undo)
    return ZoneInfo(request.param)


UTC = ZoneInfo("UTC")


def line(message: str, zone: ZoneInfo = UTC, level: int = logging.INFO, **more: object) -> Line:
    created_s = datetime(2026, 11, 21, 12, 8, 31, 353_000, zone).timestamp()
    fields = {"logger": "ACCESS_LOG", "thread": "W-9001-chatty_1.0", **more}
    return Line(created_s + 0.0001, level, message=message, **fields)  # type: ignore[arg-type]


def test_text_is_torchserves(zone: ZoneInfo) -> None:
    full, short = TextForm()(line('/127.0.0.1:37792 "GET /ping HTTP/1.1" 200 6', zone))
    assert short == '2026-11-21T12:08:31,353 - /127.0.0.1:37792 "GET /ping HTTP/1.1" 200 6\n'
    assert full == (
        '2026-11-21T12:08:31,353 [INFO ] W-9001-chatty_1.0 ACCESS_LOG - /127.0.0.1:37792 "GET /ping HTTP/1.1" 200 6\n'
    )


def test_its_metric_lines_are_what_torchserves_benchmark_reads() -> None:
    text = "PredictionTime.ms:83.13|#ModelName:mnist,Level:Model|#hostname:h,requestID:r,timestamp:1"
    _, short = TextForm()(line(text))
    assert short.split("|")[0].split(":")[3] == "83.13"  # how benchmarks/utils/reporting.py takes the value


def test_levels_have_five_characters() -> None:
    form = TextForm()
    levels = {logging.DEBUG: "[DEBUG]", logging.INFO: "[INFO ]", logging.ERROR: "[ERROR]"}
    for number, text in levels.items():
        assert text in form(line("x", level=number))[0]


def test_the_second_is_written_anew() -> None:
    form = TextForm()
    first = line("x")
    stamps = [form(first._replace(created_s=first.created_s + more))[1][:23] for more in (0, 0.5, 0.7, 60)]
    assert stamps == [
        "2026-11-21T12:08:31,353",
        "2026-11-21T12:08:31,853",
        "2026-11-21T12:08:32,053",
        "2026-11-21T12:09:31,353",
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "a\n2026-11-21T12:08:31,353 [INFO ] main ACCESS_LOG - forged",
        "a\r\nb",
        "\x1b[2J\x1b]0;title\x07",
        "\x00\x7f\x85\u2028\u2029\x0b\x0c",
        "\udc80 from a path that is no UTF-8",
        "\u202egnp.exe",
    ],
)
def test_one_event_is_one_line_of_harmless_characters(hostile: str) -> None:
    for text in (*TextForm()(line(hostile)), *json_form(line(hostile))):
        written = text.encode("utf-8")
        assert written.endswith(b"\n")
        assert written.count(b"\n") == 1
        assert text[:-1].isprintable()


def test_text_of_any_language_and_tabs_stay_readable() -> None:
    assert TextForm()(line("größer\t模型 🙂"))[1].endswith(" - größer\t模型 🙂\n")


def test_details_follow_as_they_are() -> None:
    full, _ = TextForm()(line("It failed", detail="\tTraceback\n\tValueError: x"))
    assert full.splitlines()[1:] == ["\tTraceback", "\tValueError: x"]


def test_json_holds_the_same(zone: ZoneInfo) -> None:
    event = line('a "quote"\n', zone, logging.ERROR, detail="\tTraceback", request_id="2c5ad0c7")
    document = json.loads(json_form(event)[0])
    moment = datetime.fromisoformat(document.pop("time"))
    assert moment == datetime(2026, 11, 21, 12, 8, 31, 353_000, zone)
    assert moment.utcoffset() == datetime(2026, 11, 21, tzinfo=zone).utcoffset()
    assert document == {
        "level": "ERROR",
        "logger": "ACCESS_LOG",
        "thread": "W-9001-chatty_1.0",
        "message": 'a "quote"\n\n\tTraceback',
        "request_id": "2c5ad0c7",
    }


def test_json_names_a_request_only_where_there_is_one() -> None:
    assert "request_id" not in json.loads(json_form(line("x"))[0])
