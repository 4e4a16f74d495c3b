"""`source_vocab.pt`: which index a model knows a token by.

A dict from token to index, or a list of tokens in the order of their indices, written by `torch.save`. Vocabularies of
torchtext are pickles of its classes: they need torchtext, which is no longer made, and `allow_pickle`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from handlers.errors import ModelLoadError, PredictionException

# The index of whatever a vocabulary does not have, where it has one for that.
UNKNOWN = "<unk>"

_CONVERT = "save its tokens: torch.save(vocab.get_itos(), 'source_vocab.pt')"
_MAX_SHOWN = 5


class Vocabulary(dict[str, int]):
    """Token to index; tokens it does not have are `<unk>` where that is among them."""

    def __missing__(self, token: str) -> int:
        if token == UNKNOWN or UNKNOWN not in self:
            raise KeyError(token)
        return self[UNKNOWN]


def load_vocabulary(path: Path, allow_pickle: bool) -> Any:
    """A `Vocabulary`; a pickled object that is looked up in by token as it is.

    Raises:
        ModelLoadError: the file is missing or broken, needs what is not there, or holds no vocabulary.
    """
    content = _read(path, allow_pickle)
    if isinstance(content, list | tuple):
        return _checked(list(zip(content, range(len(content)), strict=True)), path.name)
    if isinstance(content, dict):
        return _checked(list(content.items()), path.name)
    if not hasattr(content, "__getitem__"):
        raise ModelLoadError(f"{path.name} holds a {type(content).__name__}, not a dict or list of tokens")
    return content


def indices_of(vocabulary: Any, tokens: Iterable[str]) -> list[int]:
    """The index of each token.

    Raises:
        PredictionException: 400, naming the first tokens that the vocabulary does not have.
    """
    found = [(token, _index(vocabulary, token)) for token in tokens]
    unknown = [token for token, index in found if index is None]
    if unknown:
        more = f" and {len(unknown) - _MAX_SHOWN} more" if len(unknown) > _MAX_SHOWN else ""
        raise PredictionException(
            f"not in the model's vocabulary: {', '.join(map(repr, unknown[:_MAX_SHOWN]))}{more} "
            f"(it has no {UNKNOWN} for them)",
            400,
        )
    return [index for _, index in found if index is not None]


def _read(path: Path, allow_pickle: bool) -> Any:
    if not path.is_file():
        raise ModelLoadError(
            "Missing the source_vocab file. Refer default handler documentation for details on using text_handler. "
            f"Add {path.name} to the archive with --extra-files"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"{path.name} is broken, or more than a dict or list of tokens. If a vocabulary of torchtext, {_CONVERT}, "
            "or install torchtext and set handler: {allow_pickle: true} in model-config.yaml if you trust who made it"
        ) from error
    except ImportError as error:
        raise ModelLoadError(f"{path.name} is a pickle that needs {error.name}. Install it, or {_CONVERT}") from error
    except Exception as error:  # whatever the pieces of a broken file lead to
        raise ModelLoadError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error


def _checked(pairs: list[tuple[Any, Any]], name: str) -> Vocabulary:
    for token, index in pairs:
        if not isinstance(token, str) or isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise ModelLoadError(f"{name} must map tokens to indices; found {token!r}: {index!r}")
    if not pairs:
        raise ModelLoadError(f"{name} holds no token")
    return Vocabulary(pairs)


def _index(vocabulary: Any, token: str) -> int | None:
    try:
        index: int = vocabulary[token]
    except (KeyError, IndexError, RuntimeError):  # torchtext raises the last
        return None
    return index
