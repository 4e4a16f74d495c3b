"""Serves the pump model: a reading of the sensors in, the pump's condition out."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from captum.attr import IntegratedGradients
from model import SENSORS
from torch import Tensor

from handlers.base import BaseHandler
from handlers.errors import PredictionException

# No sensor measures more; far above it, float32 has no number left.
LARGEST = 1_000_000


class PumpHandler(BaseHandler):
    """One reading per request, a JSON object with a number per sensor; a batch is one forward pass.

    `initialize` and `inference` are the base handler's: it loads model.py, the weights and index_to_name.json.
    """

    batch_explanations = True

    def preprocess(self, data: list[dict[str, Any]]) -> Tensor:
        """Requests to readings [n, 4].

        Raises:
            PredictionException: 400, names the sensor that is missing or wrong.
        """
        return torch.tensor([_reading(row) for row in data], dtype=torch.float32, device=self.device)

    def postprocess(self, data: Tensor) -> list[dict[str, Any]]:
        """Logits [n, 3] to `{"condition": name, "probabilities": {name: p}}` per request."""
        return [self._answer(row) for row in data.softmax(dim=-1).tolist()]

    def explain_handle(self, data_preprocess: Tensor, raw_data: Any) -> list[dict[str, float]]:
        """How far each sensor moved the logit of the predicted condition, compared with an average reading."""
        predicted = self.model(data_preprocess).argmax(dim=-1)
        average = self.model.mean.expand_as(data_preprocess)
        importances = IntegratedGradients(self.model).attribute(data_preprocess, average, target=predicted)
        return [dict(zip(SENSORS, row, strict=True)) for row in importances.tolist()]

    def _answer(self, probabilities: list[float]) -> dict[str, Any]:
        names = self.mapping or {}
        named = {names.get(str(index), str(index)): p for index, p in enumerate(probabilities)}
        return {"condition": max(named, key=named.__getitem__), "probabilities": named}


def _reading(row: Mapping[str, Any]) -> list[float]:
    values = _json_object(row.get("data") or row.get("body"))
    if unknown := [name for name in values if name not in SENSORS]:
        raise _bad(f"unknown sensor {unknown[0]!r}; the sensors are {', '.join(SENSORS)}")
    return [_number(sensor, values.get(sensor)) for sensor in SENSORS]


def _json_object(body: Any) -> Mapping[str, Any]:
    # A body without the content type application/json arrives as bytes.
    if isinstance(body, str | bytes | bytearray):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise _bad(f"the body is not JSON: {error}") from error
    if not isinstance(body, Mapping):
        raise _bad(f"the body must be a JSON object with a number for each of {', '.join(SENSORS)}")
    return body


def _number(sensor: str, value: Any) -> float:
    if value is None:
        raise _bad(f"sensor {sensor!r} is missing")
    # A comparison is false for NaN, too, which JSON made by Python may hold.
    if type(value) not in (int, float) or not abs(value) < LARGEST:
        raise _bad(f"sensor {sensor!r} must be a number below {LARGEST:,}: found {reprlib.repr(value)}")
    return float(value)


def _bad(message: str) -> PredictionException:
    return PredictionException(message, 400)
