"""Captum's attribution for language models: what a prompt's tokens contributed to the tokens that follow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from handlers.transformer.attribution import TOKENS_PER_PASS, integrated_gradients, normalized, words
from handlers.transformer.settings import ExplanationSettings


class PromptAttribution:
    """Layer integrated gradients of the log-probability of each output token, by Captum's LLMGradientAttribution.

    The baseline is padding in place of the prompt's own tokens; output tokens that precede the explained one are given.
    """

    def __init__(self, module: nn.Module, tokenizer: PreTrainedTokenizerBase, options: ExplanationSettings) -> None:
        self._module = module
        self._tokenizer = tokenizer
        self._options = options
        self._layer: nn.Module = module.get_input_embeddings()  # type: ignore[operator]

    def explain(self, prompt: list[int], output: list[int], chosen: list[int]) -> dict[str, Any]:
        """One explanation.

        Args:
            prompt: token ids the model was given.
            output: token ids that follow.
            chosen: positions in `output` to explain.
        """
        by_token = self._attribute(prompt, output)[chosen]
        return {
            "words": words(self._tokenizer.convert_ids_to_tokens(prompt)),
            "importances": normalized(by_token.sum(dim=0)).tolist(),
            "output_tokens": words(self._tokenizer.convert_ids_to_tokens([output[at] for at in chosen])),
            "token_importances": by_token.tolist(),
        }

    def _attribute(self, prompt: list[int], output: list[int]) -> Tensor:
        """float32 (output tokens, prompt tokens), in log-probability."""
        # First: its error is the one a server without Captum should answer with.
        gradients = integrated_gradients(self._module, self._layer)
        from captum.attr import LLMGradientAttribution, TextTokenInput

        tokenizer = _KnownTokens(self._tokenizer, prompt, output)
        result = LLMGradientAttribution(gradients, tokenizer).attribute(
            TextTokenInput("", tokenizer, baselines=int(self._tokenizer.pad_token_id)),
            target=torch.tensor(output),
            n_steps=self._options.n_steps,
            method=self._options.method,
            internal_batch_size=self._options.internal_batch_size or self._tokens_budget(len(prompt) + len(output)),
        )
        attributions: Tensor = result.token_attr.detach().float().cpu()
        return attributions

    @staticmethod
    def _tokens_budget(length: int) -> int:
        return max(1, TOKENS_PER_PASS // length)


class _KnownTokens:
    """The tokenizer as Captum calls it. Both texts are tokens already: the prompt was cut as for a prediction, and
    output tokens need not survive decoding (half a character of a byte-level vocabulary does not)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: list[int], output: list[int]) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._output = output

    def encode(self, text: str, return_tensors: str) -> Tensor:
        return torch.tensor([self._prompt])

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return list(self._tokenizer.convert_ids_to_tokens(ids))

    def decode(self, ids: Tensor) -> str:
        return ""

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        return {"input_ids": self._output, "offset_mapping": [(0, 0)] * len(self._output)}
