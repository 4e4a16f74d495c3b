"""Makes the pump model. Its readings are generated: a pump's sensors by rules of thumb, with noise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import torch
from model import CONDITIONS, SENSORS, PumpModel
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from model_making import make_once, seed_everything  # noqa: E402

READINGS = 6000
TEST_READINGS = 2000
STEPS = 400
LEARNING_RATE = 0.02

# Per sensor: value without load, rise with full load, and noise (one standard deviation).
HEALTHY = torch.tensor([[40.0, 20.0, 3.0], [1.2, 0.8, 0.4], [5.2, -1.0, 0.2], [8.0, 10.0, 0.6]])
# Per condition (index_to_name.json names them) and sensor: how much more than a healthy pump shows.
CHANGES = torch.tensor([[0.0, 0.0, 0.0, 0.0], [11.0, 1.6, 0.0, 0.8], [1.0, 0.7, -0.8, -1.6]])


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("model"), show_default=True)
def main(output: Path) -> None:
    """Train the model and save it, unless OUTPUT is up to date. Takes a few seconds."""
    make_once(output, [Path(__file__), HERE / "model.py"], _make)


def generate(count: int) -> tuple[Tensor, Tensor]:
    """Readings [count, 4] and conditions [count]. How bad a defect is varies, and so does the pump's load."""
    conditions = torch.randint(CONDITIONS, (count,))
    load, severity = 0.4 + 0.6 * torch.rand(count, 1), 0.5 + torch.rand(count, 1)
    base, rise, noise = HEALTHY.unbind(dim=1)
    readings = base + rise * load + severity * CHANGES[conditions] + noise * torch.randn(count, len(SENSORS))
    return readings, conditions


def _make(folder: Path) -> dict[str, Any]:
    seed_everything(1)
    model = PumpModel()
    _fit(model, *generate(READINGS))
    save_file(model.state_dict(), folder / "model.safetensors")
    readings, conditions = generate(TEST_READINGS)
    right = model(readings).argmax(dim=-1) == conditions
    return {"test_accuracy": round(float(right.float().mean()), 3)}


def _fit(model: PumpModel, readings: Tensor, conditions: Tensor) -> None:
    model.mean.copy_(readings.mean(dim=0))
    model.scale.copy_(readings.std(dim=0))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(model(readings), conditions)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()


if __name__ == "__main__":
    main()
