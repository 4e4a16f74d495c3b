"""Which device a handler uses.

Unlike TorchServe this leaves torch's float32 matmul precision alone, so that results equal those of plain PyTorch.
"""

from __future__ import annotations

import torch


def choose_device(gpu_id: int | str | None) -> tuple[str, torch.device]:
    """`(map_location, device)` for a worker that was given `gpu_id`, an index within what it sees; None means CPU."""
    if gpu_id is None:
        return "cpu", torch.device("cpu")
    if torch.cuda.is_available():
        return "cuda", torch.device(f"cuda:{gpu_id}")
    if torch.backends.mps.is_available():
        return "mps", torch.device("mps")
    return "cpu", torch.device("cpu")
