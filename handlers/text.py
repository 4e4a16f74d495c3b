"""`text_handler`: what handlers of texts have in common, from cleaning a text to explaining by its tokens."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from handlers.base import BaseHandler
from handlers.context import Context
from handlers.contractions import expand_contractions
from handlers.errors import ModelLoadError, PredictionException
from handlers.fields import request_fields
from handlers.markup import CLEANUP_REGEX
from handlers.tokenization import get_tokenizer
from handlers.vocabulary import Vocabulary, load_vocabulary

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextHandler(BaseHandler):
    """Loads a model with its vocabulary; subclasses write the steps.

    Attributes:
        source_vocab: index of each token, as source_vocab.pt of the archive says.
        tokenizer: text to tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer: Callable[[str], list[str]] = get_tokenizer("basic_english")
        self.input_text: Any = None

    def initialize(self, context: Context) -> None:
        """Loads model, labels and vocabulary.

        Raises:
            ModelLoadError: says which file or key is missing or wrong.
        """
        super().initialize(context)
        self.initialized = False
        named = (context.manifest or {}).get("model", {}).get("sourceVocab")
        path = self._model_dir(context) / named if named else Path(self.get_source_vocab_path(context))
        self.source_vocab = load_vocabulary(path, self._pickle_allowed())
        self._check_vocabulary(path.name)
        self.initialized = True

    def get_source_vocab_path(self, ctx: Context) -> str:
        return str(self._model_dir(ctx) / "source_vocab.pt")

    @cached_property
    def lig(self) -> Any:
        """Captum's layer integrated gradients of the model's `embedding`.

        Raises:
            PredictionException: 501, the model has none.
        """
        from captum.attr import LayerIntegratedGradients

        # Gradients are taken where the embedding gives its output, which compiled code does not show.
        model = getattr(self.model, "_orig_mod", self.model)
        if not hasattr(model, "embedding"):
            raise PredictionException(
                f"{type(self).__name__} cannot explain this model: {type(model).__name__} has no attribute embedding",
                501,
            )
        return LayerIntegratedGradients(model, model.embedding)

    def request_text(self, row: Any) -> str:
        """The text of one request: its `data` or `body`, or those keys of the JSON object that is its body.

        Raises:
            PredictionException: 400, there is none.
        """
        fields = request_fields(row)
        text = fields.get("data") or fields.get("body")
        if not text:
            raise PredictionException("the request holds no text: send it as the body or as the field 'data'", 400)
        if isinstance(text, bytes | bytearray):
            return _decoded(text)
        if not isinstance(text, str):
            raise PredictionException(f"expected a text, got {type(text).__name__}", 400)
        return text

    def get_word_token(self, input_tokens: Sequence[str]) -> list[str]:
        """Tokens as explanations show them: byte-level tokenizers' mark for a blank is left out."""
        return [token.replace("Ġ", "") for token in input_tokens]

    def summarize_attributions(self, attributions: torch.Tensor) -> torch.Tensor:
        """Each row of attributions as a distribution over its last dimension, all of them together of length 1."""
        rows = functional.softmax(attributions, dim=-1)
        summarized: torch.Tensor = rows / torch.linalg.vector_norm(rows.sum(dim=-1))
        return summarized

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _expand_contractions(self, text: str) -> str:
        return expand_contractions(text)

    def _remove_accented_characters(self, text: str) -> str:
        """ASCII only: accents are taken off letters, and other characters out."""
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(_WITHOUT_PUNCTUATION)

    # TorchServe's older spelling.
    _remove_puncutation = _remove_punctuation

    def _tokenize(self, text: str) -> list[str]:
        return self.tokenizer(text)

    def _check_vocabulary(self, name: str) -> None:
        # An index out of range ends a CUDA context, and with it the worker.
        rows = getattr(getattr(self.model, "embedding", None), "num_embeddings", None)
        if not isinstance(self.source_vocab, Vocabulary) or not isinstance(rows, int):
            return
        token, index = max(self.source_vocab.items(), key=lambda item: item[1])
        if index >= rows:
            raise ModelLoadError(f"{name} gives {token!r} the index {index}, but the model's embedding has {rows} rows")


def _decoded(text: bytes | bytearray) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise PredictionException(f"the text is not valid UTF-8: {error.reason} at byte {error.start}", 400) from error
