"""Layer integrated gradients on a model's embeddings, for a whole batch of texts.

Sundararajan et al., "Axiomatic Attribution for Deep Networks" (2017), as implemented by Captum.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from handlers.errors import PredictionException
from handlers.transformer.encoding import Encoded
from handlers.transformer.network import Network
from handlers.transformer.settings import ExplanationSettings

# Bounds the memory of a forward and backward pass where the archive does not: 8,192 tokens of BERT-base hold about
# 3 GB of activations.
TOKENS_PER_PASS = 8192

Target = int | tuple[int, int]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Importances:
    """What each token contributed to one output.

    Attributes:
        values: one per token, special tokens included, padding not; their L2 norm is 1.
        delta: sum of the attributions minus the change of the output; near 0 when n_steps suffices.
    """

    values: list[float]
    delta: float


class LayerAttribution:
    """Attributes outputs of one encoded batch to its tokens.

    The baseline keeps special tokens in their place and pads the rest. Padding behind a text is masked and the same in
    text and baseline, so it gets nothing and changes nothing: results equal those of each text alone.
    """

    def __init__(self, network: Network, layer: nn.Module, encoded: Encoded, options: ExplanationSettings) -> None:
        self._network = network
        self._layer = layer
        self._encoded = encoded
        self._options = options

    def importances(self, output: int, targets: Sequence[Target]) -> list[Importances]:
        """Importances for `targets[i]` within the model's output number `output` for text i."""
        return [
            importances
            for start in range(0, len(targets), self._rows_per_pass)
            for importances in self._attribute(output, list(targets), slice(start, start + self._rows_per_pass))
        ]

    def _attribute(self, output: int, targets: list[Target], rows: slice) -> list[Importances]:
        names = list(self._encoded.inputs)
        inputs = [self._encoded.inputs[name][rows] for name in names]

        def forward(*tensors: Tensor) -> Tensor:
            return self._network.eager(dict(zip(names, tensors, strict=True)))[output].float()

        attributions, deltas = integrated_gradients(forward, self._layer).attribute(
            inputs[0],
            baselines=self._baselines[rows],
            additional_forward_args=tuple(inputs[1:]),
            target=targets[rows],
            n_steps=self._options.n_steps,
            method=self._options.method,
            internal_batch_size=self._options.internal_batch_size or self._tokens_budget,
            return_convergence_delta=True,
        )
        sums = normalized(attributions.detach().float().sum(dim=-1))
        lengths = [len(self._encoded.ids(index)) for index in range(len(self._encoded))[rows]]
        return [
            Importances(row[:length].tolist(), float(delta))
            for row, length, delta in zip(sums, lengths, deltas, strict=True)
        ]

    @cached_property
    def _baselines(self) -> Tensor:
        ids = self._encoded.inputs["input_ids"]
        keep = torch.zeros_like(ids, dtype=torch.bool)
        for index in range(len(self._encoded)):
            special = self._encoded.is_special(index)
            keep[index, : len(special)] = torch.tensor(special)
        padding = torch.full_like(ids, self._encoded.tokenizer.pad_token_id)
        return torch.where(keep, ids, padding)

    @property
    def _tokens_budget(self) -> int:
        """Rows of this batch's length that one pass may hold."""
        return max(1, TOKENS_PER_PASS // self._encoded.inputs["input_ids"].shape[1])

    @property
    def _rows_per_pass(self) -> int:
        return self._options.internal_batch_size or self._tokens_budget


def integrated_gradients(forward: Any, layer: nn.Module) -> Any:
    """Captum's LayerIntegratedGradients.

    Raises:
        PredictionException: 501 when Captum is not installed.
    """
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError as error:
        raise PredictionException("explanations need captum on the server: pip install captum", 501) from error
    return LayerIntegratedGradients(forward, layer)


def embedding_layer(module: nn.Module, name: str | None) -> nn.Module:
    """The layer attributed to: `module.<name>.embeddings`, else the base model's, else the token embedding alone.

    The original took the name from its settings, and with it nothing but BERT-like models worked; a name that the
    model does not have ("gpt2" for GPT-2, in its example) falls back to what the model itself says.

    Raises:
        PredictionException: 400 when the model has none of them.
    """
    named = getattr(getattr(module, name, None), "embeddings", None) if name else None
    if name and not isinstance(named, nn.Module):
        log.warning("embedding_name %s: the model has no %s.embeddings; using its own input embeddings", name, name)
    own = getattr(getattr(module, "base_model", None), "embeddings", None)
    for layer in (named, own):
        if isinstance(layer, nn.Module):
            return layer
    try:
        return cast(nn.Module, cast(Any, module).get_input_embeddings())
    except (AttributeError, NotImplementedError) as error:
        raise PredictionException(
            f"{type(module).__name__} has no embedding layer to attribute to: name the part of the model that has "
            ".embeddings with handler: {embedding_name: ...} in model-config.yaml",
            400,
        ) from error


def normalized(values: Tensor) -> Tensor:
    """Rows of length 1; rows of zeros stay zeros."""
    norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    unit: Tensor = values / norms.clamp_min(torch.finfo(values.dtype).tiny)
    return unit


def words(tokens: Sequence[str]) -> list[str]:
    """Tokens as explanations show them: byte-level tokenizers' mark for a blank is left out."""
    return [token.replace("Ġ", "") for token in tokens]
