"""A loaded model and how it is called: eager, compiled, or traced for fixed shapes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handlers.compile import compile_callable
from handlers.transformer.packing import pack_weights

# As many lengths as keep a compiled model below torch's limit of recompilations (8): each length is compiled for one
# row and for several.
COMPILED_LENGTHS = 4

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Network:
    """A model that answers tensors with a tuple of tensors.

    Attributes:
        module: the model itself, never compiled; explanations run on it.
        device: where its inputs go.
        traced: called by position with (input_ids, attention_mask) only, no gradients.
        fixed_rows: rows every call must have (Neuron traces); smaller batches are filled up, larger ones split.
        compiled: the compiled module, if it is compiled.
    """

    module: nn.Module
    device: torch.device
    traced: bool = False
    fixed_rows: int | None = None
    compiled: nn.Module | None = None

    @property
    def config(self) -> Any:
        """The transformers configuration; None for a trace."""
        return getattr(self.module, "config", None)

    @property
    def input_names(self) -> set[str]:
        """Tokenizer outputs the model takes."""
        names = {"input_ids", "attention_mask"}
        if not self.traced and "token_type_ids" in inspect.signature(self.module.forward).parameters:
            # RoBERTa takes segments but has only one.
            names |= {"token_type_ids"} if getattr(self.config, "type_vocab_size", 2) > 1 else set()
        return names

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Runs a batch as fast as this model can, without gradients."""
        if self.fixed_rows is not None:
            return self._in_fixed_rows(inputs, self.fixed_rows)
        if self.compiled is not None:
            return _tuple_of(self.compiled(**_with_marked_shapes(inputs)))
        return self.eager(inputs)

    def eager(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Runs the uncompiled module; gradients flow unless it is a trace."""
        if self.traced:
            return _tuple_of(self.module(inputs["input_ids"], inputs["attention_mask"]))
        return _tuple_of(self.module(**inputs))

    def compile(self, options: Mapping[str, Any], trial: Mapping[str, Tensor]) -> None:
        """Compiles, and runs `trial`, so that a backend that cannot work is found out here and not by a request."""
        if self.traced:
            log.warning("pt2: compile has no effect on a TorchScript trace")
            return
        compiled = compile_callable(self.module, options)
        if compiled is self.module:
            return
        self.compiled = compiled
        try:
            self.predict(trial)
        except Exception as error:
            log.warning("The compiled model does not run; proceeding without compilation: %s", error)
            self.compiled = None

    def pack(self, wanted: bool | None) -> None:
        """Packs the weights, see `packing`; not of a model that is spread over GPUs, whose layers have hooks."""
        if not self.traced and self.device.type == "cpu":
            pack_weights(self.module, wanted)

    def _in_fixed_rows(self, inputs: Mapping[str, Tensor], rows: int) -> tuple[Tensor, ...]:
        count = len(inputs["input_ids"])
        missing = -count % rows
        filled = {name: torch.cat([value, value.new_zeros(missing, value.shape[1])]) for name, value in inputs.items()}
        parts = [
            self.eager({name: value[at : at + rows] for name, value in filled.items()}) for at in range(0, count, rows)
        ]
        return tuple(torch.cat(tensors)[:count] for tensors in zip(*parts, strict=True))


def compiled_lengths(max_length: int) -> tuple[int, ...]:
    """The lengths a compiled model pads to: an eighth, a quarter, half and all of max_length, in multiples of 8."""
    fractions = [2**power for power in reversed(range(1, COMPILED_LENGTHS))]
    shorter = {8 * -(-max_length // (8 * fraction)) for fraction in fractions}
    return (*sorted(length for length in shorter if length < max_length), max_length)


def _with_marked_shapes(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """One graph per length serves any number of rows (torch keeps a second one for a single row)."""
    for value in inputs.values():
        torch._dynamo.maybe_mark_dynamic(value, 0)
        torch._dynamo.mark_static(value, 1)
    return inputs


def _tuple_of(output: Any) -> tuple[Tensor, ...]:
    if isinstance(output, Tensor):
        return (output,)
    values = output.values() if isinstance(output, Mapping) else output
    return tuple(value for value in values if isinstance(value, Tensor))
