"""Text that continues a prompt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from handlers.compile import compile_callable
from handlers.errors import ModelLoadError, PredictionException
from handlers.transformer.encoding import Encoded, TextEncoder
from handlers.transformer.generation_attribution import PromptAttribution
from handlers.transformer.generation_parameters import PARAMETERS, GenerationParameters
from handlers.transformer.inputs import Item
from handlers.transformer.limits import position_limit
from handlers.transformer.settings import ExplanationSettings
from handlers.transformer.tasks.base import LoadedModel, Task

# New tokens where the archive sets no max_length.
DEFAULT_NEW_TOKENS = 50

# The most a request gets from a model with room for more, unless the archive's own default is higher.
MAX_NEW_TOKENS = 4096

# Tokens explained where the request does not say: each costs a full run of integrated gradients.
DEFAULT_EXPLAINED_TOKENS = 8


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that one `generate` call continues: `positions[i]` is the place of prompt i in the batch."""

    positions: list[int]
    encoded: Encoded
    parameters: GenerationParameters


@dataclass(frozen=True, slots=True)
class Generated:
    """What came out for one prompt: all its sequences, prompt included, without padding."""

    sequences: list[list[int]]
    prompt_tokens: int


class TextGeneration(Task[list[Group], list[Generated]]):
    """Answers the text including the prompt; a list of texts for `num_return_sequences` above 1.

    With `output: scores` each text is {"generated_text", "prompt_tokens", "generated_tokens"}.

    Prompts are padded on the left and masked, so that each continues from its own last token. A prompt is cut where the
    tokenizer cuts (its `truncation_side`) to max_length tokens, and always leaves room for one more. Prompt and new
    tokens together never exceed the model's positions: max_new_tokens is lowered to fit.
    """

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self.tokenizer.padding_side = "left"
        self._limit = position_limit(self.network)
        prompt_length = min(self.max_length, self._limit - 1) if self._limit else self.max_length
        self.encoder = TextEncoder(self.tokenizer, prompt_length, self.network.input_names, device=self.network.device)
        self.defaults = self._archive_defaults()
        self._compiled_forward: Callable[..., Any] | None = None

    def compile(self, options: dict[str, Any]) -> None:
        """Compiles the forward pass that `generate` calls, and generates once to see that it works."""
        forward = self.network.module.forward
        compiled = compile_callable(forward, options)
        if compiled is forward:
            return
        self._compiled_forward = compiled
        try:
            self.run(self.encode([Item("a", options={"max_new_tokens": 2, "do_sample": False})]))
        except Exception as error:
            log.warning("The compiled model does not run; proceeding without compilation: %s", error)
            self._compiled_forward = None

    def encode(self, items: Sequence[Item]) -> list[Group]:
        wanted = [self._parameters(item, self.defaults) for item in items]
        lengths = [len(ids) for ids in self.encoder.encode(items).unpadded["input_ids"]]
        groups = _grouped([self._fitted(*pair) for pair in zip(wanted, lengths, strict=True)])
        return [
            Group(positions, self.encoder.encode([items[position] for position in positions]), parameters)
            for positions, parameters in groups
        ]

    def parts(self, batch: list[Group]) -> list[Encoded]:
        return [group.encoded for group in batch]

    def run(self, batch: list[Group]) -> list[Generated]:
        results: dict[int, Generated] = {}
        for group in batch:
            results.update(zip(group.positions, self._generate(group), strict=True))
        return [results[position] for position in range(len(results))]

    def answers(self, items: Sequence[Item], batch: list[Group], output: list[Generated]) -> list[Any]:
        answer = self._plain if self.settings.output == "plain" else self._scores
        texts = [[answer(ids, generated.prompt_tokens) for ids in generated.sequences] for generated in output]
        return [one[0] if len(one) == 1 else one for one in texts]

    def explain(self, items: Sequence[Item], options: ExplanationSettings) -> list[dict[str, Any]]:
        """What the prompt's tokens contributed to each token that follows.

        `words` and `importances` of the prompt (the sum over the output tokens, made length 1), `output_tokens`, and
        `token_importances`: one row per output token, one column per word, in log-probability.

        `target` is the text that follows, or the positions of the generated tokens to explain; without one the model's
        most likely continuation is explained, DEFAULT_EXPLAINED_TOKENS long unless max_new_tokens says otherwise.
        """
        return [self._explain_one(item, options) for item in items]

    def _explain_one(self, item: Item, options: ExplanationSettings) -> dict[str, Any]:
        encoded = self.encoder.encode([item])
        output, chosen = self._output_tokens(item, encoded)
        attribution = PromptAttribution(self.network.module, self.tokenizer, options)
        return attribution.explain(encoded.ids(0), output, chosen)

    def _output_tokens(self, item: Item, encoded: Encoded) -> tuple[list[int], list[int]]:
        """Ids that follow the prompt, and the positions among them to explain."""
        target = item.options.get("target")
        if isinstance(target, str):
            return self._target_text(target, len(encoded.ids(0)))
        output = self._greedy(item, encoded)
        if target is None:
            return output, list(range(len(output)))
        return output, _checked_positions(target, len(output))

    def _target_text(self, target: str, prompt_length: int) -> tuple[list[int], list[int]]:
        ids: list[int] = self.tokenizer(target, add_special_tokens=False)["input_ids"]
        if not ids:
            raise PredictionException("target: the text to explain is empty", 400)
        ids = ids[: self._room(prompt_length)]
        return ids, list(range(len(ids)))

    def _greedy(self, item: Item, encoded: Encoded) -> list[int]:
        short = replace(self.defaults, max_new_tokens=min(DEFAULT_EXPLAINED_TOKENS, self.defaults.max_new_tokens))
        wanted = self._parameters(item, replace(short, num_return_sequences=1))
        greedy = replace(wanted, do_sample=False, num_return_sequences=1, seed=None)
        parameters = self._fitted(greedy, len(encoded.ids(0)))
        generated = self._generate(Group([0], encoded, parameters))[0]
        return generated.sequences[0][generated.prompt_tokens :]

    def _generate(self, group: Group) -> list[Generated]:
        module: Any = self.network.module
        with torch.inference_mode(), self._compiled(), _seeded(group.parameters.seed, self.network.device):
            ids: Tensor = module.generate(
                **group.encoded.inputs, **group.parameters.arguments(), pad_token_id=self.tokenizer.pad_token_id
            )
        padded = group.encoded.inputs["input_ids"].shape[1]
        count = group.parameters.num_return_sequences
        rows = [self._new_tokens(row[padded:]) for row in ids.tolist()]
        return [
            Generated([prompt + row for row in rows[index * count : (index + 1) * count]], len(prompt))
            for index, prompt in enumerate(group.encoded.ids(index) for index in range(len(group.encoded)))
        ]

    @contextmanager
    def _compiled(self) -> Iterator[None]:
        """The module runs compiled meanwhile. Explanations, which need gradients and hooks, never do."""
        if self._compiled_forward is None:
            yield
            return
        self.network.module.forward = self._compiled_forward
        try:
            yield
        finally:
            del self.network.module.forward

    def _new_tokens(self, row: list[int]) -> list[int]:
        """Up to the first end-of-text token, included: what follows only fills the batch."""
        ends = self._end_tokens()
        end = next((at for at, token in enumerate(row) if token in ends), len(row))
        return row[: end + 1]

    def _end_tokens(self) -> set[int | None]:
        eos: Any = getattr(self.network.module.generation_config, "eos_token_id", None)
        return set(eos) if isinstance(eos, list) else {eos}

    def _archive_defaults(self) -> GenerationParameters:
        defaults = GenerationParameters(max_new_tokens=self.settings.max_length or DEFAULT_NEW_TOKENS)
        try:
            return defaults.updated(self.settings.generation)
        except ValueError as error:
            raise ModelLoadError(f"model-config.yaml, handler: generation: {error}") from error

    def _parameters(self, item: Item, defaults: GenerationParameters) -> GenerationParameters:
        """Top-level options of a known name, then `parameters`, whose names must all be known."""
        nested = item.options.get("parameters") or {}
        if not isinstance(nested, Mapping):
            raise PredictionException(f"parameters must be an object of names and values, got {nested!r}", 400)
        top = {name: value for name, value in item.options.items() if name in PARAMETERS}
        given = {name: value for name, value in {**top, **nested}.items() if value is not None}
        try:
            return defaults.updated(given)
        except ValueError as error:
            raise PredictionException(str(error), 400) from error

    def _fitted(self, parameters: GenerationParameters, prompt_length: int) -> GenerationParameters:
        # By the prompt's own length, not the batch's: an answer must not depend on who else is in the batch.
        return replace(parameters, max_new_tokens=min(parameters.max_new_tokens, self._room(prompt_length)))

    def _room(self, prompt_length: int) -> int:
        most = max(MAX_NEW_TOKENS, self.defaults.max_new_tokens)
        return most if self._limit is None else min(most, self._limit - prompt_length)

    def _plain(self, ids: list[int], prompt_tokens: int) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _scores(self, ids: list[int], prompt_tokens: int) -> dict[str, Any]:
        return {
            "generated_text": self._plain(ids, prompt_tokens),
            "prompt_tokens": prompt_tokens,
            "generated_tokens": len(ids) - prompt_tokens,
        }


def _grouped(parameters: Sequence[GenerationParameters]) -> list[tuple[list[int], GenerationParameters]]:
    """Positions by equal parameters; one with a seed stays alone, so that its batch cannot change its text."""
    groups: list[tuple[list[int], GenerationParameters]] = []
    shared: dict[GenerationParameters, list[int]] = {}
    for position, one in enumerate(parameters):
        if one.seed is None and one in shared:
            shared[one].append(position)
            continue
        shared[one] = [position]
        groups.append((shared[one], one))
    return groups


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _checked_positions(target: object, count: int) -> list[int]:
    positions = [target] if isinstance(target, int) else target
    valid = isinstance(positions, list | tuple) and positions
    if not valid or not all(type(at) is int and 0 <= at < count for at in positions):  # type: ignore[attr-defined]
        raise PredictionException(
            f"target: {target!r} is not allowed; allowed: text, or positions from 0 to {count - 1} among the generated "
            "tokens",
            400,
        )
    return list(positions)  # type: ignore[call-overload, no-any-return]
