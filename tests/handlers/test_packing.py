"""Weights in the order of the processor's kernels."""

from __future__ import annotations

import logging
import platform

import pytest
import torch
from torch import nn

from handlers.transformer import packing
from handlers.transformer.packing import PackedLinear, pack_weights

MODE = "sequence_classification"
packs = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="only oneDNN's x86 kernels read packed weights",
)


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3, bias=False)).to(dtype)


def packed_layers(module: nn.Module) -> int:
    return sum(isinstance(layer, PackedLinear) for layer in module.modules())


@packs
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 5, 6)])
def test_packed_layers_compute_the_same(dtype, tolerance, shape):
    plain, packed = model(dtype), model(dtype)
    pack_weights(packed, None)
    assert packed_layers(packed) == 2
    given = torch.rand(shape).to(dtype)
    with torch.inference_mode():
        assert torch.allclose(packed(given), plain(given), atol=tolerance)
    assert {name: tensor.shape for name, tensor in packed.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }


@packs
def test_gradients_pass_packed_layers():
    plain, packed = model(), model()
    pack_weights(packed, None)
    inputs = [torch.ones(2, 6, requires_grad=True) for _ in range(2)]
    for module, given in zip((plain, packed), inputs, strict=True):
        module(given).sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)


@packs
def test_large_models_are_packed_on_request_only(monkeypatch):
    monkeypatch.setattr(packing, "MAX_PACKED_BYTES", 4 * (6 * 8 + 8 * 3) - 1)
    for wanted, layers in ((None, 0), (False, 0), (True, 2)):
        module = model()
        pack_weights(module, wanted)
        assert packed_layers(module) == layers


class Quantized(nn.Linear):
    """Something that is more than a linear layer."""


@pytest.mark.parametrize("module", [nn.Sequential(Quantized(6, 8)), nn.ReLU(), model(torch.float16)])
def test_other_layers_are_left_alone(module):
    pack_weights(module, True)
    assert packed_layers(module) == 0


def test_processors_and_versions_that_cannot_are_noticed(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(packing.platform, "machine", lambda: "riscv64")
    module = model()
    pack_weights(module, True)
    assert packed_layers(module) == 0
    assert "Weights stay as they are" in caplog.text


@packs
def test_the_handler_packs_unless_it_is_told_not_to(model_dirs, serve):
    folder = model_dirs("bert", "ForSequenceClassification", num_labels=3)
    modules = [serve(folder, mode=MODE, **given).handler.model for given in ({}, {"pack_weights": "false"})]
    assert packed_layers(modules[0]) > 0
    assert packed_layers(modules[1]) == 0
