"""How long an input may be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from handlers.documents import read_json_object
from handlers.errors import ModelLoadError
from handlers.transformer.network import Network

# Where neither the archive nor the model says.
DEFAULT_MAX_LENGTH = 512

# Tokenizers without a limit say a number beyond any text.
_NO_LIMIT = 1_000_000_000

log = logging.getLogger(__name__)


def position_limit(network: Network) -> int | None:
    """Tokens the model has positions for; None when it has no such limit or is a trace."""
    positions = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - _reserved_positions(network.module)


def effective_max_length(
    wanted: int | None, network: Network, tokenizer: PreTrainedTokenizerBase, model_dir: Path, pair: bool
) -> int:
    """Tokens a text is cut to: what the archive wants, within what the model can take.

    Raises:
        ModelLoadError: a trace without max_length, or no room for a single token beside the special ones.
    """
    if network.traced and wanted is None:
        raise ModelLoadError("handler: max_length is missing: a trace needs the length it was made with")
    limit = position_limit(network)
    length = wanted or _default_length(tokenizer, model_dir, limit)
    if limit is not None and length > limit:
        log.warning(
            "max_length %d is more than the %d positions of the model; texts are cut to %d", length, limit, limit
        )
        length = limit
    needed = tokenizer.num_special_tokens_to_add(pair=pair) + (2 if pair else 1)
    if length < needed:
        raise ModelLoadError(
            f"handler: max_length: {length} is not allowed; allowed: at least {needed} for this tokenizer"
        )
    return length


def _default_length(tokenizer: PreTrainedTokenizerBase, model_dir: Path, limit: int | None) -> int:
    known = [_sentence_length(model_dir), limit]
    if tokenizer.model_max_length < _NO_LIMIT:
        known.append(int(tokenizer.model_max_length))
    return min((length for length in known if length), default=DEFAULT_MAX_LENGTH)


def _sentence_length(model_dir: Path) -> int | None:
    """What sentence-transformers cut texts to when the model was trained."""
    path = model_dir / "sentence_bert_config.json"
    length: Any = read_json_object(path).get("max_seq_length") if path.is_file() else None
    return length if isinstance(length, int) else None


def _reserved_positions(module: nn.Module) -> int:
    """Rows of the position table that no token gets: RoBERTa counts from behind its padding index."""
    for name, child in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(child, nn.Embedding) and child.padding_idx is not None:
            return child.padding_idx + 1
    return 0
