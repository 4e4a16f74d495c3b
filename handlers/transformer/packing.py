"""Linear layers whose weights lie as the processor's kernels read them.

torch calls oneDNN for them, which first puts the weights into its own order, in every call: for MiniLM and a single
text of 20 words that is 4 of 14.6 ms (10.4 ms packed), in batches of 16 it is 12 % (float32, one thread, AVX-512).
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# A packed copy belongs to its worker alone, while weights out of a file are shared by all. Where that would cost more,
# the archive has to ask for it.
MAX_PACKED_BYTES = 256 * 2**20

_TYPES = (torch.float32, torch.bfloat16)
_TRIAL_ROWS = 2

log = logging.getLogger(__name__)


class PackedLinear(nn.Linear):
    """The same layer, with a second copy of its weights for calls without gradients.

    Attributes:
        packed: the weights in oneDNN's order; no tensor that anything else can read.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, input: Tensor) -> Tensor:
        # oneDNN's kernel has no gradient.
        if torch.is_grad_enabled():
            return super().forward(input)
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")
        return output


def pack_weights(module: nn.Module, wanted: bool | None) -> None:
    """Packs all linear layers of a model on the CPU, where that is possible.

    Args:
        wanted: None packs what is no larger than MAX_PACKED_BYTES.
    """
    found = list(_linears(module))
    size = sum(linear.weight.nbytes for _, _, linear in found)
    if wanted is False or not found or not (wanted or size <= MAX_PACKED_BYTES):
        return
    if not _can_pack(found[0][2]):
        log.info("Weights stay as they are: this processor or this version of torch cannot pack them")
        return
    for parent, name, linear in found:
        setattr(parent, name, PackedLinear(linear))


def _linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in module.modules():
        for name, child in parent.named_children():
            # Derived classes compute something else: quantized weights, adapters.
            if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype in _TYPES:
                yield parent, name, child


def _can_pack(linear: nn.Linear) -> bool:
    """Tries it: the operators are those of torch's compiler and may change with its version."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    trial = torch.ones(_TRIAL_ROWS, linear.in_features, dtype=linear.weight.dtype)
    try:
        with torch.no_grad():
            return torch.allclose(PackedLinear(linear)(trial), linear(trial), rtol=0.05, atol=0.05)
    except (AttributeError, RuntimeError, TypeError):
        return False
