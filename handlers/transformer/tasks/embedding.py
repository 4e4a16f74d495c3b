"""One vector per text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handlers.documents import read_json, read_json_object
from handlers.errors import ModelLoadError
from handlers.transformer.encoding import Encoded
from handlers.transformer.inputs import Item
from handlers.transformer.tasks.base import EncoderTask, LoadedModel

# Keys of sentence-transformers' pooling configuration, in the order in which it joins several.
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """How token vectors become one: the kinds, joined in order, then made unit length or not."""

    kinds: tuple[str, ...] = ("mean",)
    normalize: bool = False

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(n, L, d) token vectors and their (n, L) attention mask to (n, d x kinds)."""
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        vectors = torch.cat([_pooled(kind, tokens, weights) for kind in self.kinds], dim=-1)
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


class Embedding(EncoderTask):
    """Answers a list of floats; with `output: scores` {"embedding": [...]}."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self.pooling = load_pooling(model.model_dir)

    def part_answers(self, items: Sequence[Item], part: Encoded, output: tuple[Tensor, ...]) -> list[Any]:
        vectors: list[Any] = self.pooling(output[0], part.inputs["attention_mask"]).tolist()
        return vectors if self.settings.output == "plain" else [{"embedding": vector} for vector in vectors]


def load_pooling(model_dir: Path) -> Pooling:
    """Pooling and normalisation of sentence-transformers' `modules.json`; the mean where there is none.

    Raises:
        ModelLoadError: a module or a pooling that is not supported.
    """
    if not (model_dir / "modules.json").is_file():
        return Pooling()
    kinds: tuple[str, ...] = ("mean",)
    normalize = False
    for module in read_json(model_dir / "modules.json"):
        name = str(module.get("type", "")).rpartition(".")[2]
        if name == "Pooling":
            kinds = _pooling_kinds(model_dir / module.get("path", "1_Pooling") / "config.json")
        elif name == "Normalize":
            normalize = True
        elif name != "Transformer":
            raise ModelLoadError(f"modules.json: {name} is not supported; supported: Transformer, Pooling, Normalize")
    return Pooling(kinds, normalize)


def _pooling_kinds(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ModelLoadError(f"modules.json names {path.parent.name}/config.json, which is not in the archive: add it")
    config = read_json_object(path)
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode") and value is True]
    unknown = sorted(set(chosen) - set(_POOLINGS))
    if unknown or not chosen:
        raise ModelLoadError(
            f"{path.parent.name}/config.json: pooling {unknown or 'missing'}; supported: {sorted(_POOLINGS)}"
        )
    return tuple(kind for key, kind in _POOLINGS.items() if key in chosen)


def _pooled(kind: str, tokens: Tensor, weights: Tensor) -> Tensor:
    count = weights.sum(dim=1).clamp_min(1)
    if kind == "cls":
        # The first token that is not padding, whichever side is padded.
        return _at(tokens, weights.argmax(dim=1))
    if kind == "last":
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None, :, None]
        return _at(tokens, (weights * positions).argmax(dim=1))
    if kind == "max":
        return tokens.masked_fill(weights == 0, -torch.inf).amax(dim=1)
    total = (tokens * weights).sum(dim=1)
    return total / (count if kind == "mean" else count.sqrt())


def _at(tokens: Tensor, positions: Tensor) -> Tensor:
    return tokens.gather(1, positions.unsqueeze(-1).expand(-1, 1, tokens.shape[-1])).squeeze(1)
