"""The model: four sensors of a pump to one of three conditions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SENSORS = ("bearing_temperature_c", "vibration_mm_s", "discharge_pressure_bar", "motor_current_a")
CONDITIONS = 3


class PumpModel(nn.Module):
    """Readings [n, 4] float32, in the order and units of SENSORS, to logits [n, 3].

    `mean` and `scale` are buffers, so the weights' file brings them along and nobody has to standardise readings.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(SENSORS)))
        self.register_buffer("scale", torch.ones(len(SENSORS)))
        self.layers = nn.Sequential(nn.Linear(len(SENSORS), 32), nn.ReLU(), nn.Linear(32, CONDITIONS))

    def forward(self, readings: Tensor) -> Tensor:
        logits: Tensor = self.layers((readings - self.mean) / self.scale)
        return logits
