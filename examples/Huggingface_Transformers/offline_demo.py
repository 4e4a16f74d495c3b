"""Small models of the kinds that model-config.yaml may name, made without a hub.

BERT and DistilBERT get the weights of all-MiniLM-L6-v2 (6 layers, 384 wide) under a head that nobody has trained, as
the head of a freshly downloaded bert-base-uncased is; for question answering they are trained on the pairs of
../question_answering. GPT-2 is the storyteller of ../text_generation. RoBERTa has random weights and the storyteller's
vocabulary: it only shows that the path works.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from handlers.modules import load_module
from handlers.transformer.loading import AUTO_CLASSES
from handlers.transformer.settings import Settings

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES))

from model_making import minilm_folder, seed_everything  # noqa: E402

# With this seed the untrained two-class head says "Not Accepted" to the sample text, as the original example does.
SEED = 1
KINDS = ("distilbert", "roberta", "gpt2", "bert")

# Names of BERT's weights and what DistilBERT calls them.
DISTILBERT_NAMES = (
    (r"^encoder\.", "transformer."),
    (r"attention\.self\.(query|key|value)", lambda match: f"attention.{match[1][0]}_lin"),
    (r"attention\.output\.dense", "attention.out_lin"),
    (r"attention\.output\.LayerNorm", "sa_layer_norm"),
    (r"intermediate\.dense", "ffn.lin1"),
    (r"(layer\.\d+)\.output\.dense", r"\1.ffn.lin2"),
    (r"(layer\.\d+)\.output\.LayerNorm", r"\1.output_layer_norm"),
)


def make_demo(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer for the settings' mode, of the kind its model_name belongs to; says what they are worth."""
    name = (settings.model_name or "").lower()
    kind = next((kind for kind in KINDS if kind in name), None)
    if kind is None:
        sys.exit(f"--offline-demo knows no model like {settings.model_name}; it knows {', '.join(KINDS)}")
    if (kind == "gpt2") != (settings.mode == "text_generation"):
        sys.exit(f"--offline-demo makes gpt2 for text_generation and only that: found {name} for {settings.mode}")
    seed_everything(SEED)
    if kind == "gpt2":
        print(f"Making a GPT-2 of 0.7 million weights in place of {name}: it has read one short story.", flush=True)
        storyteller: tuple[PreTrainedModel, PreTrainedTokenizerBase] = _example("text_generation").make_storyteller()
        return storyteller
    makers = {"bert": _bert, "distilbert": _distilbert, "roberta": _roberta}
    model, tokenizer = makers[kind](settings)
    if settings.mode == "question_answering" and kind != "roberta":
        _teach_to_read(model, tokenizer, name)
    return model, tokenizer


def _example(folder: str) -> Any:
    return load_module(EXAMPLES / folder / "train.py")


def _teach_to_read(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    print(f"Making all-MiniLM-L6-v2 answer questions in place of {name}.", flush=True)
    reader = _example("question_answering")
    reader.fit_reader(model, tokenizer)
    print(
        f"It finds {reader.share_answered(model, tokenizer):.0%} of the answers of ../question_answering/data/test.json"
    )


def _options(settings: Settings) -> dict[str, Any]:
    return {"num_labels": settings.num_labels} if settings.num_labels else {}


def _auto_class(settings: Settings) -> Any:
    return getattr(transformers, AUTO_CLASSES[settings.mode])


def _tokenizer() -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(minilm_folder())
    return tokenizer


def _bert(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    _announce_minilm(settings)
    return _auto_class(settings).from_pretrained(minilm_folder(), **_options(settings)), _tokenizer()


def _distilbert(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    _announce_minilm(settings)
    bert = transformers.BertModel.from_pretrained(minilm_folder(), add_pooling_layer=False)
    config = transformers.DistilBertConfig(
        vocab_size=bert.config.vocab_size,
        dim=bert.config.hidden_size,
        hidden_dim=bert.config.intermediate_size,
        n_layers=bert.config.num_hidden_layers,
        n_heads=bert.config.num_attention_heads,
        max_position_embeddings=bert.config.max_position_embeddings,
        **_options(settings),
    )
    model = _auto_class(settings).from_config(config)
    model.base_model.load_state_dict(_as_distilbert(bert.state_dict()))
    return model, _tokenizer()


def _roberta(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    print(f"Making a RoBERTa with random weights in place of {settings.model_name}: its answers mean nothing.")
    tokenizer = _example("text_generation").learn_vocabulary()
    end = tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.eos_token
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=258,
        type_vocab_size=1,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        **_options(settings),
    )
    return _auto_class(settings).from_config(config), tokenizer


def _announce_minilm(settings: Settings) -> None:
    if settings.mode != "question_answering":
        print(
            f"Taking all-MiniLM-L6-v2 in place of {settings.model_name}, with a head nobody has trained: "
            "its labels mean nothing until you fine-tune it."
        )


def _as_distilbert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """BERT's weights under DistilBERT's names; the one segment it has left is added to the positions."""
    segments = state.pop("embeddings.token_type_embeddings.weight")
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"] + segments[0]
    return {_renamed(name): weight for name, weight in state.items() if weight.dtype == torch.float32}


def _renamed(name: str) -> str:
    for pattern, replacement in DISTILBERT_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
