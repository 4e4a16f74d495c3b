"""What every task is: texts in, answers out, and an explanation where there is one."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from handlers.errors import PredictionException
from handlers.transformer.attribution import LayerAttribution, embedding_layer
from handlers.transformer.encoding import Encoded, TextEncoder
from handlers.transformer.grouping import PASS_COST_TOKENS
from handlers.transformer.inputs import Item
from handlers.transformer.limits import effective_max_length
from handlers.transformer.network import Network, compiled_lengths
from handlers.transformer.settings import ExplanationSettings, Settings

Batch = TypeVar("Batch")
Output = TypeVar("Output")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything an archive gave: what tasks are made from."""

    network: Network
    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    model_dir: Path


class Task(abc.ABC, Generic[Batch, Output]):
    """One way to use a model. `encode`, `run` and `answers` are the steps of a prediction, each for a whole batch."""

    pair: ClassVar[bool] = False
    """Whether an item is a question with its context."""

    def __init__(self, model: LoadedModel) -> None:
        self.network = model.network
        self.tokenizer = model.tokenizer
        self.settings = model.settings
        self.max_length = effective_max_length(
            model.settings.max_length, model.network, model.tokenizer, model.model_dir, self.pair
        )

    @abc.abstractmethod
    def encode(self, items: Sequence[Item]) -> Batch:
        """Tokenizes; raises PredictionException 400 for what cannot be an input."""

    @abc.abstractmethod
    def parts(self, batch: Batch) -> list[Encoded]:
        """What `run` gives the model, one after the other."""

    @abc.abstractmethod
    def run(self, batch: Batch) -> Output:
        """Runs the model."""

    @abc.abstractmethod
    def answers(self, items: Sequence[Item], batch: Batch, output: Output) -> list[Any]:
        """One answer per item, in order."""

    @abc.abstractmethod
    def compile(self, options: dict[str, Any]) -> None:
        """Compiles the model, as far as predictions use it."""

    def pack(self) -> None:
        """Gives a model that is not compiled a second copy of its weights, where that makes it faster."""

    @abc.abstractmethod
    def explain(self, items: Sequence[Item], options: ExplanationSettings) -> list[dict[str, Any]]:
        """One explanation per item, in order; `options` hold for all of them."""


class EncoderTask(Task[list[Encoded], list[tuple[Tensor, ...]]]):
    """A task that is one forward pass for every group of texts of similar length."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        # Positions of tokens are counted from the first one.
        self.tokenizer.padding_side = "right"
        self.encoder = self._encoder((self.max_length,) if self.network.traced else ())

    def encode(self, items: Sequence[Item]) -> list[Encoded]:
        return self.encoder.encode_by_length(items)

    def parts(self, batch: list[Encoded]) -> list[Encoded]:
        return batch

    def run(self, batch: list[Encoded]) -> list[tuple[Tensor, ...]]:
        return [self.forward(part) for part in batch]

    def answers(self, items: Sequence[Item], batch: list[Encoded], output: list[tuple[Tensor, ...]]) -> list[Any]:
        found = [
            self.part_answers(_items_of(part, items), part, outputs)
            for part, outputs in zip(batch, output, strict=True)
        ]
        return _in_order(batch, found)

    def explain(self, items: Sequence[Item], options: ExplanationSettings) -> list[dict[str, Any]]:
        parts = self.encoder.encode_for_steps(items, options.n_steps)
        return _in_order(parts, [self.part_explanations(_items_of(part, items), part, options) for part in parts])

    def part_explanations(
        self, items: Sequence[Item], part: Encoded, options: ExplanationSettings
    ) -> list[dict[str, Any]]:
        """One explanation per item of similar length, in order."""
        raise PredictionException(f"mode {self.settings.mode} has no explanations", 400)

    def forward(self, part: Encoded) -> tuple[Tensor, ...]:
        """The model's outputs in float32, whatever its own type."""
        return tuple(output.float() for output in self.network.predict(part.inputs))

    @abc.abstractmethod
    def part_answers(self, items: Sequence[Item], part: Encoded, output: tuple[Tensor, ...]) -> list[Any]:
        """One answer per item of one forward pass, in order."""

    def pack(self) -> None:
        self.network.pack(self.settings.pack_weights)

    def compile(self, options: dict[str, Any]) -> None:
        encoder = self._encoder(compiled_lengths(self.max_length))
        trial = Item("a", "a" if self.pair else None)
        self.network.compile(options, encoder.encode([trial, trial]).inputs)
        if self.network.compiled is not None:
            self.encoder = encoder

    def _encoder(self, padded_lengths: Sequence[int]) -> TextEncoder:
        network = self.network
        # Other devices run a large batch as fast as a small one.
        pass_cost = PASS_COST_TOKENS * torch.get_num_threads() if network.device.type == "cpu" else None
        names, device = network.input_names, network.device
        return TextEncoder(self.tokenizer, self.max_length, names, padded_lengths, device, pass_cost)

    def _attribution(self, encoded: Encoded, options: ExplanationSettings) -> LayerAttribution:
        return LayerAttribution(self.network, self._embedding_layer, encoded, options)

    @cached_property
    def _embedding_layer(self) -> nn.Module:
        return embedding_layer(self.network.module, self.settings.embedding_name)


def _items_of(part: Encoded, items: Sequence[Item]) -> list[Item]:
    return [items[row] for row in part.rows]


def _in_order(parts: Sequence[Encoded], found: Sequence[Sequence[Any]]) -> list[Any]:
    """What was found for each part, as its texts stand in the whole batch."""
    ordered: list[Any] = [None] * sum(map(len, parts))
    for part, values in zip(parts, found, strict=True):
        for row, value in zip(part.rows, values, strict=True):
            ordered[row] = value
    return ordered
