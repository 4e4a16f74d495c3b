"""The archive's tokenizer: from its own files, else from the hub by model_name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from handlers.errors import ModelLoadError
from handlers.transformer.settings import Settings

# Any one of these means that the archive brings a tokenizer of its own.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "*.spm",
)

log = logging.getLogger(__name__)


def load_tokenizer(model_dir: Path, settings: Settings) -> PreTrainedTokenizerBase:
    """A tokenizer that can pad: one without a padding token pads with its end-of-text token, as for GPT-2.

    Raises:
        ModelLoadError: no tokenizer in the archive and none on the hub, or none that can pad.
    """
    tokenizer = _from_archive(model_dir, settings) if _has_tokenizer(model_dir) else _from_hub(settings)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ModelLoadError(
            "the tokenizer has neither a padding nor an end-of-text token, so texts cannot be batched: "
            "name a pad_token in tokenizer_config.json"
        )
    return tokenizer


def _has_tokenizer(model_dir: Path) -> bool:
    return any(next(model_dir.glob(pattern), None) is not None for pattern in TOKENIZER_FILES)


def _from_archive(model_dir: Path, settings: Settings) -> PreTrainedTokenizerBase:
    try:
        tokenizer = _load(str(model_dir), settings, local_files_only=True)
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            # transformers makes do with no vocabulary at all and then answers [UNK] to everything.
            raise ValueError("no vocabulary among them")
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = sorted({path.name for pattern in TOKENIZER_FILES for path in model_dir.glob(pattern)})
        raise ModelLoadError(
            f"the tokenizer cannot be loaded from {', '.join(found)} ({_first_line(error)}): "
            "add all its files, tokenizer_config.json and config.json included, to --extra-files"
        ) from error
    return tokenizer


def _from_hub(settings: Settings) -> PreTrainedTokenizerBase:
    files = "add tokenizer.json and tokenizer_config.json (or vocab.txt) to --extra-files"
    if settings.model_name is None:
        raise ModelLoadError(f"the archive has no tokenizer files and handler: model_name is not set: {files}")
    log.info("The archive has no tokenizer files; fetching the tokenizer of %s", settings.model_name)
    try:
        return _load(settings.model_name, settings)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"the archive has no tokenizer files and the tokenizer of {settings.model_name} cannot be fetched: {files}"
        ) from error


def _load(source: str, settings: Settings, **options: Any) -> PreTrainedTokenizerBase:
    if settings.do_lower_case is not None:
        options["do_lower_case"] = settings.do_lower_case
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source, trust_remote_code=settings.trust_remote_code, **options
    )
    return tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
