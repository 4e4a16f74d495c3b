"""Tests of the handler without a server: `python -m pytest test_handler.py`, after `python train.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.errors import PredictionException
from handlers.testing import HandlerHarness

HERE = Path(__file__).resolve().parent
MANIFEST = {"model": {"modelName": "pump", "modelFile": "model.py", "serializedFile": "model/model.safetensors"}}

# At about half load: 52 °C, 1.7 mm/s, 4.6 bar and 14 A are a healthy pump's.
HEALTHY = {
    "bearing_temperature_c": 52.0,
    "vibration_mm_s": 1.7,
    "discharge_pressure_bar": 4.6,
    "motor_current_a": 14.0,
}
HOT = {**HEALTHY, "bearing_temperature_c": 66.0, "vibration_mm_s": 3.4}
STARVED = {**HEALTHY, "discharge_pressure_bar": 3.7, "motor_current_a": 12.0}


@pytest.fixture(scope="module")
def harness() -> HandlerHarness:
    return HandlerHarness(HERE / "handler.py", model_dir=HERE, manifest=MANIFEST)


def test_a_batch_is_answered_in_order(harness: HandlerHarness) -> None:
    answers = harness.predict_batch([HOT, HEALTHY, STARVED])
    assert [answer["condition"] for answer in answers] == ["worn bearing", "healthy", "clogged inlet"]
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1) for answer in answers)


def test_a_file_is_read_like_json(harness: HandlerHarness) -> None:
    assert harness.predict((HERE / "request.json").read_bytes())["condition"] == "worn bearing"


def test_the_explanation_names_the_sensor(harness: HandlerHarness) -> None:
    importances = harness.explain(STARVED)
    assert max(importances, key=importances.get) == "discharge_pressure_bar"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("not JSON", "the body is not JSON"),
        ([1, 2], "the body must be a JSON object"),
        ({}, "sensor 'bearing_temperature_c' is missing"),
        (
            {**HEALTHY, "vibration_mm_s": "high"},
            "sensor 'vibration_mm_s' must be a number below 1,000,000: found 'high'",
        ),
        ({**HEALTHY, "vibration_mm_s": 10**400}, "sensor 'vibration_mm_s' must be a number below 1,000,000"),
        ({**HEALTHY, "vibration_mm_s": float("nan")}, "found nan"),
        ({**HEALTHY, "vibration": 1.7}, "unknown sensor 'vibration'"),
    ],
)
def test_bad_input_is_refused_with_the_reason(harness: HandlerHarness, body: object, message: str) -> None:
    with pytest.raises(PredictionException, match=message) as refused:
        harness.predict(body)
    assert refused.value.error_code == 400
