"""The floating point type that a model's weights are given: `handler: {dtype: ...}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from handlers.transformer.settings import AUTO_DTYPE

# Of torch.cpu.get_capabilities, by what they make fast: matrix products in oneDNN's kernels. Where the processor has
# none of them it computes in float32 and converts, which costs more than it saves: float16 ran MiniLM at half the
# speed of float32 on a processor without, and explained it ten times slower.
_NATIVE = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}

log = logging.getLogger(__name__)


def choose_dtype(wanted: str | None, device: torch.device) -> torch.dtype | None:
    """The type to load weights in; None leaves what the checkpoint says.

    Args:
        wanted: a name out of DTYPES, or None.
        device: where the model will run.
    """
    if wanted is None:
        return None
    name = _fast_dtype(device) if wanted == AUTO_DTYPE else wanted
    if device.type == "cpu" and name in _NATIVE and not _cpu_computes(name):
        log.warning(
            "dtype: %s: this processor has no instructions for it, so it is likely to be slower than float32", name
        )
    if wanted == AUTO_DTYPE:
        log.info("dtype: auto is %s on %s", name, device)
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def dtype_option(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The argument of `from_pretrained`, whose name changed with transformers 5."""
    major = int(transformers.__version__.partition(".")[0])
    return {"dtype" if major >= 5 else "torch_dtype": dtype}


def _fast_dtype(device: torch.device) -> str:
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    # float16 is not chosen on processors: its range is small for models that were trained in another type.
    return "bfloat16" if device.type == "cpu" and _cpu_computes("bfloat16") else "float32"


def _cpu_computes(name: str) -> bool:
    """Whether the processor has instructions for the type, and torch the kernels that use them."""
    # Older versions of torch cannot say.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has_kernels: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_kernels and any(capabilities.get(key) for key in _NATIVE[name])
